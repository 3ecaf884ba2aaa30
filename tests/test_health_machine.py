# SPDX-License-Identifier: Apache-2.0
"""What the health machine keeps beside its state: moments, rests, ramps, the flap penalty; and its invariants."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from health_cases import DEFAULT, LETTERS, SYMBOL, Settings, states, walk
from hypothesis import given
from hypothesis import strategies as st

from ubisip.health import machine
from ubisip.health.machine import (
    DEGRADED_WEIGHT,
    HALF_LIFE,
    MAX_REST,
    MOMENT,
    PENALTY,
    REUSE,
    SUPPRESS,
    USABLE,
    Health,
    Sample,
    State,
    Transition,
    Verdict,
    advance,
    pardon,
    penalty,
    ramp,
    usable,
    weight,
)


# Attempts within one moment: times in milliseconds after the first, and the states.
@pytest.mark.parametrize(
    ("evidence", "milliseconds", "expected"),
    [
        ("ll", [0, 10], "FF"),
        ("ll", [0, 99], "FF"),
        ("ll", [0, 100], "FD"),
        ("lll", [0, 50, 99], "FFF"),
        ("lll", [0, 60, 120], "FFD"),
        ("l" * 200, [i * 0.05 for i in range(200)], "F" * 200),
        ("rr", [0, 0], "FD"),
        ("rr", [0, 1], "FD"),
        ("lr", [0, 1], "FD"),
        ("rl", [0, 1], "FF"),
        ("lf", [0, 1], "FF"),
        ("lf", [0, 100], "FD"),
        ("lh", [0, 1], "FD"),
        ("hh", [0, 0], "FD"),
        ("fl", [0, 1], "FF"),
        ("flf", [0, 1, 2], "FFF"),
        ("flf", [0, 1, 100], "FFD"),
        ("lsl", [0, 10, 20], "FUU"),
        ("lslll", [0, 10, 20, 100, 200], "FUUFD"),
        ("lsr", [0, 10, 20], "FUF"),
        ("ll", [0, -5], "FF"),
    ],
)
def test_what_is_lost_in_one_moment_is_one_failure(evidence: str, milliseconds: list[float], expected: str) -> None:
    health, seen = Health(), ""
    for letter, after in zip(evidence, milliseconds, strict=True):
        health, _ = advance(health, LETTERS[letter], DEFAULT, 50.0 + after / 1000)
        seen += SYMBOL[health.state]
    assert seen == expected


def test_a_probe_that_fails_while_rising_counts_even_within_a_moment() -> None:
    health, seen = Health(), ""
    for letter, now in zip("ffpf", [0.0, 0.1, 0.11, 0.12], strict=True):
        health, _ = advance(health, LETTERS[letter], DEFAULT, now)
        seen += SYMBOL[health.state]
    assert seen == "FDRD"


def test_503_without_retry_after_counts_once_a_moment_too() -> None:
    overloaded = Sample(Verdict.LOST, "sip.503", answered=True)
    health, _ = advance(Health(), overloaded, DEFAULT, 1.0)
    health, _ = advance(health, overloaded, DEFAULT, 1.0 + MOMENT / 2)
    assert health.state is State.FALLING
    health, _ = advance(health, overloaded, DEFAULT, 1.0 + MOMENT)
    assert health.state is State.DOWN


@pytest.mark.parametrize(
    ("asked", "rested"),
    [(0.5, 0.5), (1, 1), (5, 5), (32, 32), (MAX_REST, MAX_REST), (1e9, MAX_REST), (math.inf, MAX_REST)],
)
@pytest.mark.parametrize("state", [State.UNKNOWN, State.UP, State.DEGRADED, State.FALLING])
def test_retry_after_rests_exactly_that_long_without_going_down(state: State, asked: float, rested: float) -> None:
    busy = Sample(Verdict.BUSY, "sip.503", answered=True, retry_after=asked)
    health, change = advance(Health(state), busy, DEFAULT, 100.0)
    assert health.state in USABLE
    assert change is not None and change.rest == rested and not change.crossed
    assert not usable(health, 100.0)
    assert not usable(health, math.nextafter(100.0 + rested, 0))
    assert usable(health, 100.0 + rested)
    assert weight(health, DEFAULT, 100.0 + rested) == (DEGRADED_WEIGHT if state is State.DEGRADED else 1.0)


@pytest.mark.parametrize("evidence", ["p", "s", "pppp", "w", "i", "pspsps"])
def test_nothing_but_time_and_the_operator_ends_a_rest(evidence: str) -> None:
    health = walk("b")[0]
    for letter in evidence:
        health, _ = advance(health, LETTERS[letter], DEFAULT, 1.0)
    assert not usable(health, 4.999) and usable(health, 5.0)
    assert usable(pardon(health), 1.0)


@pytest.mark.parametrize(
    ("asked", "until"), [([(0, 5), (1, 5)], 6), ([(0, 5), (1, 1)], 5), ([(0, 5), (4, 10)], 14), ([(0, 1), (3, 1)], 4)]
)
def test_a_later_answer_may_lengthen_a_rest_but_not_shorten_it(asked: list[tuple[float, float]], until: float) -> None:
    health = Health()
    for now, seconds in asked:
        health, _ = advance(health, Sample(Verdict.BUSY, retry_after=seconds, answered=True), DEFAULT, now)
    assert health.rest_until == until


def test_a_rest_is_told_once() -> None:
    health, first = advance(Health(State.UP), LETTERS["b"], DEFAULT, 0.0)
    health, second = advance(health, LETTERS["b"], DEFAULT, 1.0)
    assert first == Transition(State.UP, State.UP, "sip.503", 0.0, rest=5.0)
    assert second is None
    _, third = advance(health, LETTERS["b"], DEFAULT, 20.0)
    assert third is not None


# A failure of a request that left before the last recovery; the recovery is at 10 s.
@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (Sample(Verdict.LOST, "silent", sent_at=9.0), State.UP),
        (Sample(Verdict.LOST, "silent", sent_at=10.0), State.FALLING),
        (Sample(Verdict.LOST, "silent"), State.FALLING),
        (Sample(Verdict.LOST, "icmp", hard=True, sent_at=9.9), State.UP),
        (Sample(Verdict.LOST, "icmp", hard=True, sent_at=10.1), State.FALLING),
        (Sample(Verdict.FAIL, "timeout", sent_at=9.5), State.UP),
        (Sample(Verdict.FAIL, "timeout", sent_at=10.5), State.FALLING),
    ],
)
def test_a_failure_from_before_the_recovery_is_old_news(sample: Sample, expected: State) -> None:
    assert advance(Health(State.UP, recovered_at=10.0), sample, DEFAULT, 11.0)[0].state is expected


# Silence about a request sent at that moment, when other attempts were told to be served at 10 s.
@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (Sample(Verdict.LOST, "silent", sent_at=9.0), State.UP),
        (Sample(Verdict.FAIL, "timeout", sent_at=9.0), State.UP),
        (Sample(Verdict.LOST, "silent", sent_at=10.0 - MOMENT / 2), State.FALLING),
        (Sample(Verdict.LOST, "silent", sent_at=11.0), State.FALLING),
        (Sample(Verdict.LOST, "silent"), State.FALLING),
        (Sample(Verdict.LOST, "icmp", hard=True, sent_at=9.0), State.FALLING),
        (Sample(Verdict.LOST, "sip.503", answered=True, sent_at=9.0), State.FALLING),
    ],
)
def test_a_call_lost_while_later_ones_were_served_is_a_lost_datagram(sample: Sample, expected: State) -> None:
    health, _ = advance(Health(), LETTERS["s"], DEFAULT, 10.0)
    assert advance(health, sample, DEFAULT, 10.5)[0].state is expected


def test_a_pass_does_not_speak_for_calls() -> None:
    health, _ = advance(Health(), LETTERS["p"], DEFAULT, 10.0)
    assert advance(health, replace(LETTERS["l"], sent_at=9.5), DEFAULT, 10.5)[0].state is State.FALLING


RAMP = [
    (-1.0, 0.1),
    (0.0, 0.1),
    (0.5, 0.1),
    (0.999, 0.1),
    (1.0, 0.2),
    (1.999, 0.2),
    (2.5, 0.3),
    (3.5, 0.4),
    (4.5, 0.5),
    (5.0, 0.6),
    (6.5, 0.7),
    (7.5, 0.8),
    (8.5, 0.9),
    (9.0, 1.0),
    (10.0, 1.0),
    (1e9, 1.0),
]


@pytest.mark.parametrize(("elapsed", "factor"), RAMP)
def test_the_ramp_after_a_recovery_has_ten_steps(elapsed: float, factor: float) -> None:
    assert ramp(Health(State.UP, recovered_at=100.0), DEFAULT, 100.0 + elapsed) == factor


@pytest.mark.parametrize(("elapsed", "factor"), RAMP)
def test_a_degraded_one_has_half_of_its_ramp(elapsed: float, factor: float) -> None:
    health = Health(State.DEGRADED, recovered_at=100.0)
    assert weight(health, DEFAULT, 100.0 + elapsed) == factor * DEGRADED_WEIGHT


@pytest.mark.parametrize("evidence", ["", "p", "s", "pf", "pfp", "fp", "b"])
def test_what_never_was_down_has_no_ramp(evidence: str) -> None:
    health = ([Health(), *walk(evidence)])[-1]
    assert [ramp(health, DEFAULT, now) for now in (0.0, 1.0, 100.0)] == [1.0, 1.0, 1.0]


def test_no_ramp_without_slow_start() -> None:
    assert ramp(Health(State.UP, recovered_at=0.0), Settings(slow_start=0.0), 0.0) == 1.0


def test_a_stumble_on_the_ramp_does_not_start_it_anew() -> None:
    recovered = walk("ffppp")[-1]
    stumbled = walk("fp", start=recovered)[-1]
    assert stumbled.state is State.UP and stumbled.recovered_at == recovered.recovered_at == 4.0


def test_going_down_ends_the_ramp() -> None:
    recovered = walk("ffppp")[-1]
    assert recovered.recovered_at == 4.0
    fallen = walk("hh", start=replace(recovered, penalty=0.0))[-1]
    assert fallen.state is State.DOWN and fallen.recovered_at is None


@pytest.mark.parametrize(
    ("evidence", "crossings"),
    [
        ("pp", 0),
        ("ph", 0),
        ("php", 0),
        ("phh", 1),
        ("phhhh", 1),
        ("phhp", 1),
        ("phhph", 1),
        ("phhppp", 2),
        ("pwp", 0),
        ("b", 0),
    ],
)
def test_each_crossing_between_usable_and_not_is_penalised_once(evidence: str, crossings: int) -> None:
    health = walk(evidence, step=0.0)[-1]
    assert penalty(health, 0.0) == crossings * PENALTY


@pytest.mark.parametrize("halves", range(6))
def test_the_penalty_halves_each_minute(halves: int) -> None:
    health = Health(penalty=1000.0, penalty_at=7.0)
    assert penalty(health, 7.0 + halves * HALF_LIFE) == pytest.approx(1000.0 / 2**halves)
    assert penalty(health, 0.0) == 1000.0


# Seconds between crossings, and whether the third or fourth is held: slow changes are no flapping.
@pytest.mark.parametrize(
    ("gap", "expected"),
    [(1, "UDUH"), (10, "UDUH"), (15, "UDUH"), (25, "UDUD"), (60, "UDUD"), (300, "UDUD"), (3600, "UDUD")],
)
def test_only_quick_changes_are_flapping(gap: float, expected: str) -> None:
    assert states(walk("pfpf", Settings(fall=1, rise=1), step=gap)) == expected


FAST = Settings(fall=1, rise=1)
HOLD_TIME = HALF_LIFE * math.log2((SUPPRESS + PENALTY) / REUSE)
"""The longest: a crossing from just below SUPPRESS."""


@pytest.mark.parametrize("alive", [True, False])
def test_a_held_one_is_free_when_the_penalty_has_decayed(alive: bool) -> None:
    held = walk("pfpf", FAST, step=0.1)[-1]
    assert held.state is State.HELD
    letter = "p" if alive else "f"
    early, change = advance(held, LETTERS[letter], FAST, 60.0)
    assert early.state is State.HELD and change is None
    late, change = advance(early, LETTERS[letter], FAST, HOLD_TIME + 1)
    assert late.state is (State.UP if alive else State.DOWN)
    assert change is not None and change.before is State.HELD
    if alive:
        assert ramp(late, FAST, HOLD_TIME + 1) == 0.1


def test_release_takes_rise_passes_in_a_row() -> None:
    held = replace(walk("ffpppff", Settings(fall=1), step=0.1)[-1], state=State.HELD)
    released = walk("ppp", start=replace(held, passes=0, penalty=0.0))
    assert states(released) == "RRU"


def test_an_operator_may_release_a_held_one() -> None:
    held = walk("pfpf", FAST, step=0.1)[-1]
    assert advance(pardon(held), LETTERS["p"], FAST, 1.0)[0].state is State.UP


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        ("p", [("unknown", "up", "sip.200")]),
        ("pp", [("unknown", "up", "sip.200")]),
        ("pff", [("unknown", "up", "sip.200"), ("up", "falling", "timeout"), ("falling", "down", "timeout")]),
        ("fr", [("unknown", "falling", "timeout"), ("falling", "down", "icmp")]),
        ("w", [("unknown", "degraded", "slow")]),
        ("ls", [("unknown", "falling", "silent"), ("falling", "up", "traffic")]),
        ("i", []),
    ],
)
def test_transitions_tell_before_after_and_why(evidence: str, expected: list[tuple[str, str, str]]) -> None:
    health, told = Health(), []
    for now, letter in enumerate(evidence):
        health, change = advance(health, LETTERS[letter], DEFAULT, float(now))
        if change is not None:
            assert change.at == now
            told.append((change.before.value, change.after.value, change.reason))
    assert told == expected


evidence_lists = st.lists(
    st.tuples(st.sampled_from("pwfhslrbi"), st.floats(0.0, 90.0, allow_nan=False)), min_size=1, max_size=60
)
any_settings = st.builds(
    Settings, fall=st.integers(1, 4), rise=st.integers(1, 4), slow_start=st.sampled_from([0.0, 3.0, 10.0])
)


@given(evidence_lists, any_settings)
def test_invariants_hold_after_every_step(evidence: list[tuple[str, float]], settings: Settings) -> None:
    health, now = Health(), 0.0
    for letter, pause in evidence:
        now += pause
        before, (health, change) = health, advance(health, LETTERS[letter], settings, now)
        assert usable(health, now) <= (health.state not in (State.DOWN, State.RISING, State.HELD))
        assert 0.1 <= ramp(health, settings, now) <= 1.0
        assert (health.state is State.FALLING) <= (0 < health.failures < settings.fall)
        assert (health.state is State.RISING) <= (0 < health.passes < settings.rise)
        assert 0.0 <= penalty(health, now) < SUPPRESS + PENALTY
        assert (before.state is health.state) or change is not None
        assert change is None or change.rest > 0 or change.before is not change.after
        if before.state not in USABLE and health.state in USABLE:
            assert letter in "pw", "only a probe brings a destination back"
        if before.state in USABLE and health.state not in USABLE:
            assert letter in "fhlr", "only a failure takes a destination out"


@given(st.text("ps", min_size=1, max_size=50), any_settings)
def test_what_only_passes_is_always_usable(evidence: str, settings: Settings) -> None:
    health = Health()
    for now, letter in enumerate(evidence):
        health, _ = advance(health, LETTERS[letter], settings, now * 0.1)
        assert usable(health, now * 0.1) and weight(health, settings, now * 0.1) == 1.0


@given(evidence_lists, any_settings)
def test_whatever_happened_passes_bring_it_back(evidence: list[tuple[str, float]], settings: Settings) -> None:
    health, now = Health(), 0.0
    for letter, pause in evidence:
        now += pause
        health, _ = advance(health, LETTERS[letter], settings, now)
    for _ in range(100):
        now += settings.interval
        health, _ = advance(health, LETTERS["p"], settings, now)
    assert health.state is State.UP and usable(health, now) and weight(health, settings, now) == 1.0


@given(evidence_lists, any_settings)
def test_fall_failures_in_a_row_take_it_out_whatever_happened(
    evidence: list[tuple[str, float]], settings: Settings
) -> None:
    health, now = Health(), 0.0
    for letter, pause in evidence:
        now += pause
        health, _ = advance(health, LETTERS[letter], settings, now)
    for _ in range(settings.fall):
        health, _ = advance(health, LETTERS["h"], settings, now)
    assert health.state in (State.DOWN, State.HELD)


def test_states_that_take_calls_are_those_of_the_design() -> None:
    assert {State.UNKNOWN, State.UP, State.FALLING, State.DEGRADED} == USABLE
    assert (machine.PENALTY, machine.HALF_LIFE, machine.SUPPRESS, machine.REUSE) == (1000.0, 60.0, 2500.0, 750.0)
