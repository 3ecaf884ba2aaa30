# SPDX-License-Identifier: Apache-2.0
"""A telephony server loses its registrations: it knows every agent again before calls for them come to it."""

from __future__ import annotations

from contextlib import ExitStack

from plain_phone import PlainPhone
from processes import wait_until
from site_parts import Sites

CONTACTS = "location_contacts"
MANY = 100
SECONDS = 5.0
"""In which a server that was started anew must know its agents again."""
RATE = 20


def test_a_server_that_comes_back_empty_knows_every_agent_before_it_gets_calls(sites: Sites) -> None:
    """Agents' phones are one SIPp; the carrier calls one all the time, through the gateway that he registered with."""
    sites.write()
    users = [str(number) for number in range(2001, 2001 + MANY)]
    sites.set_passwords(dict.fromkeys(users, "many"))
    sites.start()
    place, returning = sites.place, sites.servers[0]
    host, port = place.other()
    place.answer((host, port))
    with ExitStack() as stack:
        for user in users:
            phone = stack.enter_context(PlainPhone(user, host, place.gateway(1 + int(user) % 2), password="many"))
            phone.contact = f"sip:{user}@{host}:{port}"
            assert phone.register().status == 200
    wait_until(lambda: all(server.count(CONTACTS) == MANY for server in sites.servers), "all to know the agents")
    returning.kill()
    wait_until(lambda: all(gateway.sees("down", "tel1") for gateway in sites.gateways), "it to be seen down")
    calls = place.call(place.carrier(), place.gateway(), rate=RATE, calls=RATE * 6, number=users[1])
    returning.start()
    wait_until(lambda: returning.count(CONTACTS) == MANY, "it to know all agents again", 5)
    figures = calls.wait(40)
    assert (figures.good, figures.failed) == (RATE * 6, 0), figures
    assert sites.pa2.attempts()["tel1"] > 0


def test_a_server_that_was_away_between_two_probes_knows_every_agent_again(sites: Sites) -> None:
    sites.write(servers=(1, 4), interval=2.0, mirror_quorum=2)
    sites.start()
    server = sites.servers[0]
    with PlainPhone("1001", sites.place.other()[0], sites.place.gateway()) as phone:
        assert phone.register().status == 200
        wait_until(lambda: sites.knows("1001", 1), "the servers to know the phone")
        server.kill()
        server.start()
        wait_until(lambda: server.knows("1001", 1), "the server to know the phone again", SECONDS)
