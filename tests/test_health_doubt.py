# SPDX-License-Identifier: Apache-2.0
"""When the monitor distrusts itself: storms, a cut cable, a lagging loop; and when it must not (DESIGN section 7)."""

from __future__ import annotations

import pytest
from health_cases import ONE, PA2, PA5, PLATFORM, REFUSED, SERVERS, SILENT, all_pass, down, lose, monitor, state

from ubisip.health.evidence import SERVED, attempt, probe
from ubisip.health.machine import Sample, State, Verdict
from ubisip.platform import Kind


def test_a_storm_of_one_moment_takes_nobody_out() -> None:
    it = monitor()
    all_pass(it, 0.0)
    lose(it, list(PLATFORM), SILENT, [1.0 + i * 0.01 for i in range(30)])
    assert down(it) == set() and it.abstains(1.3) == "most targets fail"
    for name in list(PLATFORM):
        it.succeeded(name, 3, 1.4)
    assert all(state(it, name) is State.UP for name in PLATFORM)
    assert it.abstains(5.0) == ""


def test_a_storm_over_the_servers_alone_takes_nobody_out_either() -> None:
    """The carriers were last heard before it: they cannot speak for us."""
    it = monitor()
    all_pass(it, 0.0)
    lose(it, SERVERS, SILENT, [1.0, 1.05, 1.1, 1.15, 1.2])
    assert down(it) == set()
    assert set(it.due(1.2)) >= {"sbc-1", "sbc-2", "sbc-3", "sbc-4"}, "they are asked at once"


def test_while_nobody_answers_they_are_asked_in_haste_for_some_seconds_only() -> None:
    it = monitor()
    all_pass(it, 0.0)
    asked = [0, 0, 0]
    for tick in range(10, 301):
        now = tick / 10
        for name in it.due(now):
            asked[min(2, int(now // 10))] += 1
            it.probed(name, 0, 0.0, now)
    assert asked[0] > asked[1] == pytest.approx(asked[2], rel=0.2)
    assert asked[2] <= 10 / 1.5 * len(PLATFORM), "as often as when all is well"
    it.probed(ONE, 200, 0.01, 31.0)
    assert down(it) == set()
    silent = [name for name in PLATFORM if name != ONE]
    assert set(it.due(31.5)) >= set(silent), "one answers: now it is they, or it is not"


def test_a_silent_one_goes_down_as_soon_as_anybody_else_was_heard() -> None:
    it = monitor()
    all_pass(it, 0.0)
    lose(it, [ONE], SILENT, [1.0, 1.1])
    assert state(it) is State.FALLING and it.abstains(1.1) == "most targets fail"
    assert set(it.due(1.1)) == set(PLATFORM), "all are asked at once"
    it.probed("sbc-4", 200, 0.01, 1.11)
    lose(it, [ONE], Sample(Verdict.LOST, "silent", sent_at=1.05), [1.15])
    assert state(it) is State.FALLING, "that one was sent while nobody was heard"
    lose(it, [ONE], Sample(Verdict.LOST, "silent", sent_at=1.12), [1.2])
    assert state(it) is State.DOWN


def test_half_of_the_groups_must_have_been_heard() -> None:
    it = monitor()
    all_pass(it, 0.0)
    site = [name for name, (_, where) in PLATFORM.items() if where == PA5]
    lose(it, site, SILENT, [1.0])
    it.succeeded(ONE, 5, 1.05)
    lose(it, site, SILENT, [1.1])
    assert down(it) == set(), "two groups fail, one was heard, the carriers of PA2 have not spoken yet"
    it.probed("sbc-1", 200, 0.01, 1.11)
    lose(it, site, Sample(Verdict.LOST, "silent", sent_at=1.12), [2.12])
    assert down(it) == set(site)


def test_failures_of_long_ago_are_not_at_once() -> None:
    it = monitor()
    all_pass(it, 0.0)
    lose(it, ["sbc-1", "sbc-2", "sbc-3", "sbc-4"], REFUSED, [0.5])
    site = ["pa2-tel1", "pa2-tel2", "pa2-tel3"]
    lose(it, site, REFUSED, [10.0, 10.0])
    assert down(it) == set(site)


@pytest.mark.parametrize("sample", [SILENT, REFUSED])
def test_a_whole_site_that_fails_goes_down(sample: Sample) -> None:
    it = monitor()
    all_pass(it, 0.0)
    site = [name for name, (_, where) in PLATFORM.items() if where == PA5]
    lose(it, site, sample, [1.0])
    all_pass(it, 1.01, [name for name in PLATFORM if name not in site])
    lose(it, site, sample, [1.2, 1.3])
    assert down(it) == set(site)


@pytest.mark.parametrize("victims", [[ONE], [ONE, "pa5-tel1"], [ONE, "sbc-1"], [ONE, "pa5-tel1", "sbc-1", "sbc-3"]])
def test_single_failures_here_and_there_are_believed_at_once(victims: list[str]) -> None:
    it = monitor()
    all_pass(it, 0.0)
    lose(it, victims, SILENT, [1.0])
    all_pass(it, 1.01, [name for name in PLATFORM if name not in victims])
    lose(it, victims, SILENT, [1.1])
    assert down(it) == set(victims)


def test_when_nobody_at_all_answers_we_abstain_for_as_long_as_it_lasts() -> None:
    it = monitor()
    all_pass(it, 0.0)
    for now in range(1, 600):
        for name in it.due(float(now)):
            it.probed(name, 0, 1.0, now + 0.9)
    assert down(it) == set() and it.abstains(599.0) == "most targets fail"


def test_a_cut_cable_is_no_proof_either() -> None:
    """Our own network answers for every address."""
    it = monitor()
    all_pass(it, 0.0)
    lose(it, list(PLATFORM), REFUSED, [1.0])
    lose(it, list(PLATFORM), REFUSED, [1.1, 1.2, 1.3])
    assert down(it) == set()


def test_if_somebody_answers_the_doubt_ends_after_one_round_of_probes() -> None:
    it = monitor()
    all_pass(it, 0.0)
    victims = [name for name in PLATFORM if PLATFORM[name] != (Kind.CARRIER, PA2)]
    for tick in range(10, 60):
        now = tick / 10
        lose(it, victims, SILENT, [now])
        all_pass(it, now, ["sbc-1", "sbc-2"])
        if now < 4.1:
            assert down(it) == set()
    assert down(it) == set(victims)


def test_one_group_alone_has_no_witness_and_is_believed() -> None:
    it = monitor(targets={name: PLATFORM[name] for name in ("pa2-tel1", "pa2-tel2")})
    lose(it, ["pa2-tel1", "pa2-tel2"], SILENT, [1.0, 1.1])
    assert state(it, "pa2-tel1") is state(it, "pa2-tel2") is State.DOWN


def test_what_was_down_before_is_no_sign_of_our_own_sickness() -> None:
    it = monitor()
    all_pass(it, 0.0)
    lose(it, ["pa2-tel1", "pa2-tel2"], REFUSED, [1.0, 1.0])
    all_pass(it, 9.0, [name for name in PLATFORM if name not in ("pa2-tel1", "pa2-tel2")])
    site = [name for name, (_, where) in PLATFORM.items() if where == PA5]
    lose(it, site, SILENT, [10.0])
    for name in ("pa2-tel1", "pa2-tel2"):
        it.probed(name, -1, 0.001, 10.0)
    all_pass(it, 10.01, ["pa2-tel3", "sbc-1", "sbc-2"])
    lose(it, site, SILENT, [10.2, 10.3])
    assert down(it) == {*site, "pa2-tel1", "pa2-tel2"}


@pytest.mark.parametrize(
    ("seconds", "sick"), [(0.0, False), (0.05, False), (0.1, False), (0.11, True), (0.4, True), (9.0, True)]
)
def test_a_lagging_loop_abstains_for_as_long_as_it_lagged_at_most_a_timeout(seconds: float, sick: bool) -> None:
    it = monitor()
    all_pass(it, 0.0)
    it.observe(ONE, SILENT, 1.0)
    it.succeeded("sbc-1", 1, 1.1)
    it.lag(seconds, 2.0)
    assert it.abstains(2.0) == ("lag" if sick else "")
    it.observe(ONE, SILENT, 2.05)
    assert state(it) is (State.FALLING if sick else State.DOWN)
    it.observe(ONE, SILENT, 2.0 + min(seconds, 1.0) + 0.05)
    assert state(it) is State.DOWN


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (SILENT, State.FALLING),
        (probe(0, 1.0, 1.0), State.FALLING),
        (REFUSED, State.DOWN),
        (probe(-1, 0.1, 1.0), State.DOWN),
        (probe(503, 0.1, 1.0), State.DOWN),
        (attempt("busy"), State.DOWN),
        (probe(200, 0.9, 1.0), State.FALLING),
        (probe(200, 0.1, 1.0), State.UP),
        (SERVED, State.UP),
    ],
)
def test_lag_spoils_only_what_hangs_on_our_own_clock(sample: Sample, expected: State) -> None:
    it = monitor()
    all_pass(it, 0.0)
    it.observe(ONE, REFUSED, 1.0)
    it.lag(0.5, 1.4)
    it.observe(ONE, sample, 1.5)
    assert state(it) is expected


def test_lag_does_not_keep_a_server_from_resting() -> None:
    it = monitor()
    it.lag(5.0, 0.0)
    it.observe(ONE, attempt("busy", retry_after=5.0), 0.1)
    assert not it.states(1.0)[ONE].usable
