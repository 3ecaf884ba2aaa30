# SPDX-License-Identifier: Apache-2.0
"""Members that are not what the file says: from their facts, pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ubisip.failover.inspection import lacks, misfits, release


def facts(**rows: tuple[int, int, str]) -> dict[str, dict[str, Any]]:
    """Server id, replication domain and version of each member."""
    return {
        name: {"server_id": server, "domain_id": domain, "version": version}
        for name, (server, domain, version) in rows.items()
    }


WELL = facts(a=(1, 0, "10.11.6-MariaDB-log"), b=(2, 0, "10.11.6-MariaDB-log"), c=(3, 0, "10.11.9-MariaDB"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({}, {}),
        ({"b": {"server_id": 1}}, {"a": "has server id 1, the same", "b": "has server id 1, the same"}),
        ({"c": {"domain_id": 7}}, {"c": "has replication domain 7, not that of the others (0)"}),
        ({"c": {"domain_id": 7, "server_id": 2}}, {"b": "server id 2", "c": "server id 2"}),
        ({"a": None}, {}),
    ],
)
def test_who_is_no_member(change: Mapping[str, Any], named: Mapping[str, str]) -> None:
    its = {name: {} if change.get(name, row) is None else {**row, **change.get(name, {})} for name, row in WELL.items()}
    found = misfits(its)
    assert found.keys() == named.keys()
    for name, words in named.items():
        assert any(words in text for text in found[name])


def test_kinds_without_such_facts_have_no_misfits() -> None:
    assert misfits({"a": {"status": 200}, "b": {}}) == {} and lacks({"a": {"status": 200}}) == {}


def test_what_members_lack() -> None:
    its = {name: dict(row) for name, row in WELL.items()}
    assert lacks(its) == {}
    its["b"]["version"] = "10.6.12-MariaDB"
    its["c"]["missing"] = ("SUPER", "RELOAD")
    found = lacks(its)
    assert found["b"] == ("b has version 10.6.12-MariaDB, another member 10.11",)
    assert found["c"] == ("its user on c lacks: SUPER, RELOAD",)


@pytest.mark.parametrize(
    ("version", "expected"),
    [("10.11.6-MariaDB-log", "10.11"), ("15.4 (Debian)", "15.4"), ("7", "7"), ("", "")],
)
def test_releases(version: str, expected: str) -> None:
    assert release(version) == expected
