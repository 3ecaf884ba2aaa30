# SPDX-License-Identifier: Apache-2.0
"""The monitor in virtual time: evidence of probes and traffic, the schedule, the operator's switch."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from health_cases import (
    DEFAULT,
    ONE,
    PA2,
    PA5,
    PLATFORM,
    REFUSED,
    SERVERS,
    SILENT,
    Settings,
    all_pass,
    lose,
    monitor,
    state,
)
from hypothesis import given
from hypothesis import strategies as st

from ubisip.health.evidence import attempt, probe
from ubisip.health.machine import Sample, State, Verdict
from ubisip.health.monitor import Change, Monitor
from ubisip.platform import DestinationState, Kind, Switch

# -- evidence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 202, 300, 302, 400, 401, 403, 404, 405, 407, 415, 420, 480, 481, 483, 486])
@pytest.mark.parametrize("round_trip", [0.0, 0.5])
def test_any_final_response_is_a_pass(status: int, round_trip: float) -> None:
    assert probe(status, round_trip, 1.0) == Sample(Verdict.PASS, f"sip.{status}", answered=True)


@pytest.mark.parametrize("status", [488, 493, 500, 501, 502, 504, 505, 513, 580, 600, 603, 604, 606])
def test_errors_other_than_503_and_408_are_passes_too(status: int) -> None:
    it = monitor()
    it.probed(ONE, status, 0.01, 0.0)
    assert state(it) is State.UP


@pytest.mark.parametrize(
    ("status", "sample"),
    [
        (0, Sample(Verdict.FAIL, "timeout")),
        (-1, Sample(Verdict.FAIL, "icmp", hard=True)),
        (408, Sample(Verdict.FAIL, "sip.408", answered=True)),
        (503, Sample(Verdict.FAIL, "sip.503", answered=True)),
    ],
)
def test_what_is_a_failed_probe(status: int, sample: Sample) -> None:
    assert probe(status, 0.01, 1.0) == sample
    it = monitor()
    it.probed(ONE, status, 0.01, 0.0)
    assert state(it) is State.FALLING


@pytest.mark.parametrize(("round_trip", "verdict"), [(0.49, "pass"), (0.5, "pass"), (0.51, "warn"), (0.99, "warn")])
def test_a_slow_answer_is_a_warning(round_trip: float, verdict: str) -> None:
    assert probe(200, round_trip, 1.0).verdict.value == verdict


def test_a_slow_server_gets_half_of_its_weight_until_it_is_quick_again() -> None:
    it = monitor()
    it.probed(ONE, 200, 0.9, 0.0)
    assert it.states(0.0)[ONE] == DestinationState(usable=True, ramp=0.5)
    for now in (1.0, 2.0, 3.0):
        it.probed(ONE, 200, 0.01, now)
    assert it.states(3.0)[ONE] == DestinationState()


@pytest.mark.parametrize("kind", ["refused", "silent", "busy"])
def test_a_lost_attempt_is_a_failure(kind: str) -> None:
    it = monitor()
    change = it.observe(ONE, attempt(kind), 0.0)
    assert change is not None
    assert (change.name, change.kind, change.site) == (ONE, Kind.SERVER, PA2)
    assert (change.transition.before, change.transition.after) == (State.UNKNOWN, State.FALLING)


def test_no_such_kind_of_attempt() -> None:
    with pytest.raises(ValueError, match="answered"):
        attempt("answered")


def test_503_with_retry_after_rests_the_server() -> None:
    it = monitor()
    all_pass(it, 0.0)
    it.observe(ONE, attempt("busy", retry_after=7.0), 1.0)
    assert not it.states(7.9)[ONE].usable
    assert it.states(8.0)[ONE] == DestinationState()
    assert state(it) is State.UP


def test_a_probe_may_be_told_to_come_back_later_too() -> None:
    it = monitor()
    it.probed(ONE, 503, 0.01, 0.0, retry_after=3.0)
    assert state(it) is State.UP and not it.states(2.9)[ONE].usable and it.states(3.0)[ONE].usable


@pytest.mark.parametrize("count", [1, 5, 1000])
def test_successes_clear_failures_while_falling(count: int) -> None:
    it = monitor()
    for now in range(10):
        it.observe(ONE, REFUSED, float(now))
        assert state(it) is State.FALLING
        change = it.succeeded(ONE, count, now + 0.1)
        assert change is not None and state(it) is State.UP


def test_no_new_success_is_no_evidence() -> None:
    it = monitor()
    it.observe(ONE, REFUSED, 0.0)
    assert it.succeeded(ONE, 0, 0.1) is None and state(it) is State.FALLING


def test_successes_do_not_bring_a_server_back_probes_do() -> None:
    it = monitor()
    lose(it, [ONE], REFUSED, [0.0, 0.0])
    for now in range(1, 20):
        assert it.succeeded(ONE, 10, now / 10) is None
    assert state(it) is State.DOWN
    changes = [it.probed(ONE, 200, 0.01, 2.0 + i) for i in range(3)]
    after = [change.transition.after if change else None for change in changes]
    assert after == [State.RISING, None, State.UP]


@pytest.mark.parametrize("fall", [1, 2, 3, 5])
def test_a_refusing_server_is_down_after_fall_refusals(fall: int) -> None:
    it = monitor(Settings(fall=fall))
    all_pass(it, 0.0)
    for i in range(fall):
        assert state(it) in (State.UP, State.FALLING)
        it.observe(ONE, REFUSED, 1.0 + i * 1e-4)
    assert state(it) is State.DOWN


def test_two_hundred_calls_lost_in_10_ms_are_one_failure() -> None:
    it = monitor()
    all_pass(it, 0.0)
    lose(it, [ONE], SILENT, [1.0 + i * 5e-5 for i in range(200)])
    assert state(it) is State.FALLING
    assert ONE in it.due(1.01)
    all_pass(it, 1.02, [name for name in PLATFORM if name != ONE])
    it.probed(ONE, 0, 1.0, 2.01)
    assert state(it) is State.DOWN


def test_a_probe_lost_while_calls_were_served_is_a_lost_datagram() -> None:
    it = monitor()
    it.due(0.0)
    it.succeeded(ONE, 1, 0.5)
    it.probed(ONE, 0, 1.0, 1.0)
    assert state(it) is State.UP


def test_evidence_about_a_name_that_a_reload_removed_is_ignored() -> None:
    it = monitor()
    assert it.observe("gone", REFUSED, 0.0) is None
    assert it.probed("gone", 200, 0.1, 0.0) is None
    assert it.succeeded("gone", 5, 0.0) is None


# -- schedule ---------------------------------------------------------------------------------------------------------


def gaps(it: Monitor, status: int, until: float, duration: float = 0.001) -> list[float]:
    """Seconds between the probes of ONE, each answered after *duration* with *status*."""
    sent: list[float] = []
    now = 0.0
    while now < until:
        for name in it.due(now):
            if name == ONE:
                sent.append(now)
            it.probed(name, status if name == ONE else 200, duration, now + duration)
        now = round(now + 0.01, 2)
    return [b - a for a, b in pairwise(sent)]


def test_everything_is_probed_at_once_when_the_gateway_starts() -> None:
    it = monitor()
    assert it.next_due() == -math.inf
    assert sorted(it.due(100.0)) == sorted(PLATFORM)
    assert it.due(100.0) == []


def test_a_healthy_server_is_probed_each_interval() -> None:
    found = gaps(monitor(), 200, 60.0)
    assert len(found) > 25 and all(1.5 <= gap <= 2.01 for gap in found)


def test_a_dead_one_each_down_interval() -> None:
    found = gaps(monitor(Settings(down_interval=4.0)), -1, 60.0)
    assert found[0] <= 0.51, "the second failure is sought quickly"
    assert all(3.0 <= gap <= 4.01 for gap in found[1:])


def test_one_that_comes_back_is_probed_quickly() -> None:
    it = monitor()
    lose(it, [ONE], REFUSED, [0.0, 0.0])
    found = gaps(it, 200, 20.0)
    assert all(gap <= 0.51 for gap in found[:2]) and all(gap >= 1.5 for gap in found[2:])


def test_a_probe_that_took_all_its_time_is_followed_at_once_while_falling() -> None:
    it = monitor()
    it.due(0.0)
    it.probed(ONE, 0, 1.0, 1.0)
    moment = it.next_due()
    assert moment is not None and moment <= 1.0
    assert ONE in it.due(1.0)


def test_traffic_that_fails_calls_for_a_probe_at_once_but_not_more_often_than_fast_interval() -> None:
    it = monitor(Settings(fall=1000))
    sent = []
    for tick in range(1000):
        now = tick / 100
        it.observe(ONE, REFUSED, now)
        for name in it.due(now):
            it.probed(name, 200, 0.001, now)
            sent += [now] * (name == ONE)
    assert 19 <= len(sent) <= 30
    assert all(b - a >= 0.37 for a, b in pairwise(sent))


def test_probes_spread_out_and_always_in_the_same_way() -> None:
    def times(seed: str) -> list[tuple[str, float]]:
        it, found = Monitor(DEFAULT, PLATFORM, seed), []
        for tick in range(2000):
            for name in it.due(tick / 100):
                it.probed(name, 200, 0.001, tick / 100)
                found.append((name, tick / 100))
        return found

    first = times("pa2-gw1")
    assert first == times("pa2-gw1") != times("pa2-gw2")
    at_once = [sum(now == moment for _, now in first) for moment in {now for _, now in first if now > 10}]
    assert max(at_once) <= 3


def test_a_result_that_never_comes_does_not_stop_the_probing() -> None:
    it = monitor()
    it.due(0.0)
    assert it.due(2.9) == []
    assert sorted(it.due(3.0)) == sorted(PLATFORM)


@given(st.floats(0, 1e6), st.lists(st.floats(0.001, 5.0), max_size=20))
def test_due_is_never_before_next_due_and_never_empty_then(start: float, pauses: list[float]) -> None:
    it, now = monitor(), start
    for pause in pauses:
        moment = it.next_due()
        assert moment is not None
        if moment > now:
            assert it.due(math.nextafter(moment, -math.inf)) == []
        now = max(now, moment) + pause
        names = it.due(now)
        assert names
        for name in names:
            it.probed(name, 200, 0.001, now)


def test_nothing_to_probe() -> None:
    it = monitor(targets={})
    assert it.next_due() is None and it.due(0.0) == [] and it.states(0.0) == {}


# -- the operator's switch --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("switch", Switch)
def test_the_switch_is_told_to_the_core(switch: Switch) -> None:
    it = monitor()
    it.switch(ONE, switch)
    assert it.states(0.0)[ONE].switch is switch
    assert it.states(0.0)["sbc-1"] == DestinationState()


def test_drain_is_probed_and_its_health_goes_on() -> None:
    it = monitor()
    it.switch(ONE, Switch.DRAIN)
    assert ONE in it.due(0.0)
    lose(it, [ONE], REFUSED, [0.0, 0.1])
    assert state(it) is State.DOWN


def test_maintenance_is_neither_probed_nor_judged() -> None:
    it = monitor()
    it.due(0.0)
    it.switch(ONE, Switch.MAINTENANCE)
    assert it.probed(ONE, 0, 1.0, 1.0) is None and it.observe(ONE, REFUSED, 1.0) is None
    assert all(ONE not in it.due(float(now)) for now in range(100))
    assert it.health(ONE).reason == "maintenance" and not it.states(99.0)[ONE].usable


def test_after_maintenance_a_server_must_pass_and_is_ramped() -> None:
    it = monitor()
    all_pass(it, 0.0)
    it.switch(ONE, Switch.MAINTENANCE)
    it.switch(ONE, Switch.READY)
    assert not it.states(0.1)[ONE].usable
    now, seen = 0.1, []
    while not it.states(now)[ONE].usable:
        if ONE in it.due(now):
            seen.append(now)
            it.probed(ONE, 200, 0.001, now)
        now = round(now + 0.01, 2)
    assert seen[0] == 0.1 and len(seen) == 3 and seen[-1] <= 1.11
    assert it.states(now)[ONE].ramp == 0.1


def test_only_maintenance_left_means_nothing_to_probe() -> None:
    it = monitor(targets={ONE: PLATFORM[ONE]})
    it.switch(ONE, Switch.MAINTENANCE)
    assert it.next_due() is None


def test_ready_ends_a_rest() -> None:
    it = monitor()
    it.observe(ONE, attempt("busy", retry_after=600.0), 0.0)
    it.switch(ONE, Switch.READY)
    assert it.states(0.0)[ONE].usable


def test_a_switch_needs_a_name_that_exists() -> None:
    with pytest.raises(KeyError):
        monitor().switch("nobody", Switch.DRAIN)


def test_switches_outlive_the_process_and_health_does_not() -> None:
    first = monitor()
    first.switch(ONE, Switch.DRAIN)
    first.switch("sbc-4", Switch.MAINTENANCE)
    lose(first, ["sbc-1"], REFUSED, [0.0, 0.0])
    record = first.to_record()
    assert record == {"switches": {ONE: "drain", "sbc-4": "maintenance"}}
    second = monitor()
    second.from_record(record)
    assert second.to_record() == record
    assert state(second, "sbc-1") is State.UNKNOWN and second.states(0.0)["sbc-4"].switch is Switch.MAINTENANCE


def test_a_record_may_name_what_is_no_longer_there() -> None:
    it = monitor()
    it.from_record({"switches": {"gone": "drain", ONE: "drain"}})
    assert it.to_record() == {"switches": {ONE: "drain"}}


@pytest.mark.parametrize(
    "record", [{}, {"switches": None}, {"switches": ["x"]}, {"switches": {"sbc-1": "drain", ONE: "off"}}]
)
def test_a_spoiled_record_is_refused_whole(record: dict[str, object]) -> None:
    it = monitor()
    with pytest.raises(ValueError):
        it.from_record(record)
    assert it.to_record() == {"switches": {}}


def test_a_reload_keeps_what_stays() -> None:
    it = monitor()
    all_pass(it, 0.0)
    lose(it, [ONE], REFUSED, [1.0, 1.0])
    it.switch("pa2-tel2", Switch.DRAIN)
    it.replace(Settings(rise=1), {ONE: (Kind.SERVER, PA2), "pa2-tel2": (Kind.SERVER, PA5), "new": (Kind.SERVER, PA2)})
    assert set(it.states(2.0)) == {ONE, "pa2-tel2", "new"}
    assert state(it) is State.DOWN and it.states(2.0)["pa2-tel2"].switch is Switch.DRAIN
    assert state(it, "new") is State.UNKNOWN and "new" in it.due(2.0)
    change = it.probed(ONE, 200, 0.01, 3.0)
    assert change is not None and change.transition.after is State.UP, "the new rise applies"
    moved = it.observe("pa2-tel2", REFUSED, 3.0)
    assert moved is not None and moved.site == PA5


# -- all together -----------------------------------------------------------------------------------------------------


def test_panic_tells_the_kinds_with_nothing_left() -> None:
    it = monitor()
    all_pass(it, 0.0)
    assert it.panic(0.0) == frozenset()
    for name in SERVERS[:-1]:
        it.observe(name, attempt("busy", retry_after=10.0), 1.0)
    it.switch(SERVERS[-1], Switch.DRAIN)
    assert it.panic(1.0) == {Kind.SERVER}
    assert it.panic(11.0) == frozenset()


evidence = st.tuples(
    st.sampled_from(sorted(PLATFORM)),
    st.sampled_from(
        ["refused", "silent", "busy", "rest", "served", "200", "503", "0", "-1", "slow", "lag", "drain", "ready"]
    ),
    st.floats(0.0, 2.0),
)


def apply(it: Monitor, name: str, what: str, now: float) -> Change | None:
    match what:
        case "served":
            return it.succeeded(name, 1, now)
        case "rest":
            return it.observe(name, attempt("busy", retry_after=1.5), now)
        case "200" | "503" | "0" | "-1":
            return it.probed(name, int(what), 0.01, now)
        case "slow":
            return it.probed(name, 200, 0.9, now)
        case "lag":
            it.lag(0.3, now)
        case "drain" | "ready":
            it.switch(name, Switch(what))
        case _:
            return it.observe(name, attempt(what), now)
    return None


@given(st.lists(evidence, max_size=120))
def test_the_changes_tell_the_whole_story(story: list[tuple[str, str, float]]) -> None:
    it, now = monitor(), 0.0
    told = dict.fromkeys(PLATFORM, State.UNKNOWN)
    for name, what, pause in story:
        now += pause
        change = apply(it, name, what, now)
        if change is not None:
            assert change.name == name and change.transition.before is told[name]
            told[name] = change.transition.after
        assert {name: state(it, name) for name in PLATFORM} == told
        for other, seen in it.states(now).items():
            assert not (seen.usable and told[other] in (State.DOWN, State.RISING, State.HELD))
            assert 0.05 <= seen.ramp <= 1.0
