# SPDX-License-Identifier: Apache-2.0
"""Whole calls between SIPp and SIPp through a running gateway, in both directions."""

from __future__ import annotations

from processes import Place, wait_until


def test_calls_from_the_carrier_reach_the_servers_of_the_own_site(place: Place) -> None:
    place.write()
    servers = [place.answer(place.server(number)) for number in range(1, 7)]
    place.start_gateway()
    figures = place.call(place.carrier(), place.gateway(), rate=50, calls=100, hold=0.1).wait(30)
    assert (figures.good, figures.failed, figures.retransmissions) == (100, 0, 0)
    shares = [len(server.calls()) for server in servers]
    assert sum(shares[:3]) == 100 and min(shares[:3]) > 10 and not any(shares[3:]), shares


def test_metrics_count_calls_and_attempts(place: Place) -> None:
    place.write(servers=1)
    place.answer(place.server())
    gateway = place.start_gateway()
    assert place.call(place.carrier(), place.gateway(), calls=10).wait(30).good == 10
    assert gateway.counter("ubisip_calls_total") == 10
    assert gateway.counter("ubisip_attempts_total", destination="tel1") == 10
    assert gateway.counter("ubisip_answered_total", destination="tel1") == 10
    assert gateway.counter("ubisip_post_dial_delay_seconds_count") == 10
    assert gateway.counter("ubisip_calls") == gateway.counter("ubisip_calls_pending") == 0


def test_calls_from_a_server_go_to_the_centre_of_the_own_site(place: Place) -> None:
    place.write()
    carriers = [place.answer(place.carrier(number)) for number in range(1, 5)]
    place.start_gateway()
    figures = place.call(place.server(), place.gateway(), rate=50, calls=50, hold=0.1).wait(30)
    assert (figures.good, figures.failed, figures.retransmissions) == (50, 0, 0)
    shares = [len(carrier.calls()) for carrier in carriers]
    assert sum(shares[:2]) == 50 and min(shares[:2]) > 5 and not any(shares[2:]), shares


def test_calls_from_a_server_go_to_the_other_centre_when_the_own_is_down(place: Place) -> None:
    place.write(servers=7)
    carriers = [place.answer(place.carrier(number)) for number in (3, 4)]
    for number in range(1, 7):
        place.answer(place.server(number))
    gateway = place.start_gateway()
    wait_until(lambda: gateway.sees("down", "sbc1", "sbc2"), "the gateway to see that its own centre is down")
    refused = gateway.counter("ubisip_core_total", counter="refused")
    figures = place.call(place.server(7), place.gateway(), rate=50, calls=50).wait(30)
    assert (figures.good, figures.failed) == (50, 0)
    assert sum(len(carrier.calls()) for carrier in carriers) == 50
    assert gateway.counter("ubisip_core_total", counter="refused") == refused


def test_a_call_that_finds_the_own_centre_dead_is_carried_by_the_other(place: Place) -> None:
    """The moment before any probe knows: the attempt itself is refused, and the next centre takes the call."""
    place.write(health={"interval": 3600, "fast_interval": 3600, "down_interval": 3600})
    carriers = [place.answer(place.carrier(number)) for number in range(1, 5)]
    place.start_gateway()
    assert place.call(place.server(), place.gateway(), number="1").wait(30).good == 1
    for carrier in carriers[:2]:
        carrier.child.kill()
    figures = place.call(place.server(2), place.gateway(), number="2", calls=5).wait(30)
    assert (figures.good, figures.failed) == (5, 0)
    assert sum(len(carrier.calls()) for carrier in carriers[2:]) == 5
