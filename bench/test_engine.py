# SPDX-License-Identifier: Apache-2.0
"""Calls through the engine in virtual time: each message of a call, each policy, a retransmission, a whole call.

Every round takes 500 calls one step on; what is reported is for one datagram (or, for a whole call, one call).
"""

from __future__ import annotations

import time
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.replay import STEPS, Arrival, Replay, engine, until
from ubisip.core.engine import Datagram

BATCH = 500
ROUNDS = 40
POLICIES = ["hash", "least-calls", "round-robin", "weighted"]


def measure(benchmark: BenchmarkFixture, replay: Replay, step: str) -> None:
    """Feed batches of *step*; the datagrams are made, and what comes out is checked, outside the measured part."""
    sent: list[Any] = []

    def prepare() -> tuple[tuple[list[Arrival]], dict[str, Any]]:
        return (until(replay, step),), {}

    def feed(arrivals: list[Arrival]) -> None:
        sent[:] = replay.feed(arrivals)

    benchmark.extra_info["per"] = BATCH
    benchmark.pedantic(feed, setup=prepare, rounds=ROUNDS, warmup_rounds=2)
    replay.delivered(sent, STEPS[step][1])


@pytest.mark.parametrize("step", STEPS)
def test_message(step: str, benchmark: BenchmarkFixture) -> None:
    benchmark.group = "receive one message of a call, match it, forward it"
    measure(benchmark, Replay(engine(), BATCH), step)


@pytest.mark.parametrize("policy", POLICIES)
def test_choice(policy: str, benchmark: BenchmarkFixture) -> None:
    benchmark.group = "take a new call: choose one of six servers, forward"
    measure(benchmark, Replay(engine(policy), BATCH), "INVITE")


def test_retransmission(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "absorb an INVITE that was sent again"
    replay = Replay(engine(), BATCH)
    arrivals = replay.invites()
    replay.delivered(replay.feed(arrivals), 1)
    benchmark.extra_info["per"] = BATCH
    benchmark.pedantic(replay.feed, args=(arrivals,), rounds=ROUNDS, warmup_rounds=2)
    assert all(datagram.data.startswith(b"SIP/2.0 100") for datagram in replay.feed(arrivals))


class Stopwatch:
    """A clock for pytest-benchmark that runs only while the engine works."""

    def __init__(self) -> None:
        self.spent = 0.0

    def __call__(self) -> float:
        return self.spent

    def feed(self, replay: Replay, arrivals: list[Arrival]) -> list[Datagram]:
        begin = time.perf_counter()
        sent = replay.feed(arrivals)
        self.spent += time.perf_counter() - begin
        return sent


ENGINE_TIME = Stopwatch()


@pytest.mark.benchmark(timer=ENGINE_TIME)
def test_whole_call(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "a whole call, 6 messages in and 6 out"
    replay = Replay(engine(), BATCH)

    def calls() -> None:
        for make, expected in STEPS.values():
            replay.delivered(ENGINE_TIME.feed(replay, make(replay)), expected)

    benchmark.extra_info["per"] = BATCH
    benchmark.pedantic(calls, rounds=ROUNDS, warmup_rounds=2)
