# SPDX-License-Identifier: Apache-2.0
"""Counting agents, and the marks by which sites compare whom they reach."""

from __future__ import annotations

from typing import Any

import pytest
from agent_parts import row

from ubisip.agents.census import MARK_OCTETS, Census, mark_of, marks_from, only_here


def bound(name: str, *, in_step: int = 0, alive: bool = True, **more: Any) -> tuple[Any, ...]:
    return (*row(name, **more), in_step, -1, alive)


def census_of(*rows: tuple[Any, ...]) -> Census:
    census = Census()
    for one in rows:
        census.add(one)
    census.settle()
    return census


def test_bindings_agents_and_flows_are_counted() -> None:
    census = census_of(bound("a"), bound("a", reg_id=2), bound("b", alive=False), bound("c", instance=""))
    assert (census.bindings, census.agents, census.alive) == (4, 3, 3)


def test_servers_in_step_are_counted_by_slot() -> None:
    census = census_of(bound("a", in_step=1 << 200 | 0b101), bound("b", in_step=0b100))
    assert census.in_step == {0: 1, 2: 2, 200: 1}


def test_a_phone_counts_when_it_can_be_reached_and_says_which_it_is() -> None:
    census = census_of(bound("a"), bound("a", reg_id=2), bound("b", alive=False), bound("c", instance=""))
    assert census.phones == {mark_of("a", row("a").instance)}


def test_the_same_instance_of_two_agents_is_two_phones() -> None:
    assert mark_of("a", "<urn:x>") != mark_of("b", "<urn:x>")


def test_marks_come_back_as_they_were() -> None:
    census = census_of(*(bound(f"agent{number}") for number in range(100)))
    assert len(census.marks()) == 100 * MARK_OCTETS
    assert frozenset(marks_from(census.marks())) == census.phones
    assert list(marks_from(b"")) == []


def test_what_are_no_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="9 octets"):
        marks_from(b"no marks!")


def test_only_here_are_those_that_no_other_site_has() -> None:
    assert only_here({b"1", b"2", b"3"}, [{b"1"}, {b"3", b"4"}]) == {b"2"}
    assert only_here({b"1"}, [set()]) == {b"1"}
