# SPDX-License-Identifier: Apache-2.0
"""A telephony server dies, falls silent, is overloaded or comes back while calls are placed."""

from __future__ import annotations

import itertools
import signal
import time

import pytest
from processes import Callee, Gateway, Place, wait_until

NAMES = [f"tel{number}" for number in range(1, 7)]
RATE = 200


def six_servers(place: Place) -> tuple[Gateway, list[Callee]]:
    """A gateway with six servers of its own site, all of them known to be up."""
    place.write(servers=[{"site": "PA2"}] * 6, carriers=1)
    servers = [place.answer(place.server(number)) for number in range(1, 7)]
    gateway = place.start_gateway()
    wait_until(lambda: gateway.sees("up", *NAMES), "all servers to be up")
    return gateway, servers


def placed(gateway: Gateway) -> float:
    return gateway.counter("ubisip_calls_total")


def test_no_call_fails_when_a_server_is_killed(place: Place, record: dict[str, float]) -> None:
    """Its socket is closed: the kernel says so by ICMP, and the next server gets the call at once."""
    gateway, servers = six_servers(place)
    load = place.call(place.carrier(), place.gateway(), rate=RATE, calls=RATE * 6)
    wait_until(lambda: placed(gateway) > RATE * 2, "two seconds of calls")
    servers[2].child.kill()
    figures = load.wait(60)
    record |= {"calls": figures.made, "failed": figures.failed, "worst delay, ms": figures.worst}
    record |= {"calls above 100 ms": figures.slower_than(100), "failovers": gateway.failovers()}
    assert figures.good == figures.made == RATE * 6 and not figures.failed
    assert gateway.failovers() >= 1
    assert figures.worst < 500  # a gateway deaf to ICMP takes a second
    assert len(servers[2].calls()) < RATE * 6 / 6


@pytest.mark.long
def test_a_silent_server_costs_the_first_calls_a_second_and_a_half_at_most(
    place: Place, record: dict[str, float]
) -> None:
    """Its process is stopped: its socket takes everything and answers nothing."""
    gateway, servers = six_servers(place)
    load = place.call(place.carrier(), place.gateway(), rate=RATE, calls=RATE * 8)
    wait_until(lambda: placed(gateway) > RATE * 2, "two seconds of calls")
    servers[2].child.signal(signal.SIGSTOP)
    stopped = time.monotonic()
    wait_until(lambda: time.monotonic() > stopped + 3.0, "three seconds")
    after_three = gateway.attempts()
    figures = load.wait(60)
    late = gateway.attempts()["tel3"] - after_three["tel3"]
    record |= {"calls": figures.made, "failed": figures.failed, "worst delay, ms": figures.worst}
    record |= {"calls above 100 ms": figures.slower_than(100), "sent there after 3 s": late}
    assert figures.made == RATE * 8
    # A call that was answered in the very moment before the stop has nobody left who could answer its BYE.
    assert figures.made - figures.good <= 1
    assert gateway.failovers() >= 1
    assert figures.worst < 2500
    assert late == 0


@pytest.mark.long
def test_a_server_that_returns_gets_its_share_little_by_little(place: Place, record: dict[str, float]) -> None:
    """Killed, then back: no call until it has answered several probes, then a share that grows."""
    slow_start = 6.0
    health = {"interval": 0.5, "fast_interval": 0.2, "down_interval": 0.5, "slow_start": slow_start}
    place.write(servers=[{"site": "PA2"}] * 3, carriers=1, health=health)
    servers = [place.answer(place.server(number)) for number in (1, 2, 3)]
    gateway = place.start_gateway()
    wait_until(lambda: gateway.sees("up", *NAMES[:3]), "all servers to be up")
    servers[1].child.kill()
    wait_until(lambda: gateway.sees("down", "tel2"), "the gateway to see that it is down")
    load = place.call(place.carrier(), place.gateway(), rate=RATE, calls=RATE * 11)
    returned = place.answer(place.server(2))
    wait_until(lambda: gateway.sees("up", "tel2"), "it to be up again")
    counts = [(len(returned.calls()), placed(gateway))]
    began = time.monotonic()
    for end in (slow_start / 3, slow_start * 2 / 3, slow_start, slow_start + 1.5):
        wait_until(lambda end=end: time.monotonic() > began + end, "the next part of its ramp")  # type: ignore[misc]
        counts.append((len(returned.calls()), placed(gateway)))
    figures = load.wait(60)
    shares = [(b - a) / (y - x) for (a, x), (b, y) in itertools.pairwise(counts)]
    record |= {f"share in part {number}": share for number, share in enumerate(shares, 1)}
    assert not figures.failed
    assert shares[0] < 0.6 * shares[3] and shares[0] < shares[2]
    assert 0.2 < shares[3] < 0.5


@pytest.mark.parametrize("where", ["own site", "platform"])
def test_no_call_fails_when_all_but_one_are_killed(place: Place, record: dict[str, float], where: str) -> None:
    """The calls of five dead servers, one after the other, all reach the last one, in whatever site it stands."""
    place.write(servers=6 if where == "platform" else [{"site": "PA2"}] * 6, carriers=1)
    servers = [place.answer(place.server(number)) for number in range(1, 7)]
    gateway = place.start_gateway()
    wait_until(lambda: gateway.sees("up", *NAMES), "all servers to be up")
    load = place.call(place.carrier(), place.gateway(), rate=100, calls=400)
    wait_until(lambda: placed(gateway) > 100, "a second of calls")
    for server in servers[:5]:
        server.child.kill()
    figures = load.wait(60)
    record |= {"calls": figures.made, "failed": figures.failed, "worst delay, ms": figures.worst, "cut": figures.cut}
    assert figures.good == figures.made == 400
    assert figures.worst < 1000
