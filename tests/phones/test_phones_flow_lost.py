# SPDX-License-Identifier: Apache-2.0
"""One of a phone's two connections is lost: a server that calls it is told so, and takes the other."""

from __future__ import annotations

import time

import pytest
from pjsua_phone_parts import Phone
from plain_phone import PlainPhone
from processes import wait_until
from site_parts import REALM, Sites

pytest.importorskip("pjsua2", reason="the wheel pjsua2-python exists for x86-64 only")

SERVER_WAITS = 2.0
"""Seconds after which a server would take the other flow unasked: ``fr_timer`` in kamailio-server.cfg."""


@pytest.mark.parametrize("lost", [1, 2])
def test_a_call_goes_by_the_other_connection_when_one_is_lost(sites: Sites, lost: int) -> None:
    sites.write(servers=(1, 4))
    sites.start()
    place = sites.place
    caller = Phone(sites, "1002", proxies=sites.proxies("tcp")[1:])
    caller.registers(1)
    host = place.other(100)[0]
    flows = {number: PlainPhone("1001", host, place.gateway(number), "tcp", reg_id=number) for number in (1, 2)}
    with flows[1], flows[2]:
        assert [flow.register().status for flow in flows.values()] == [200, 200]
        wait_until(lambda: sites.knows("1001", 2), "the servers to know both flows")
        flows[lost].close()
        gateway = sites.gateways[lost - 1]
        wait_until(lambda: gateway.counter("ubisip_registrations_total", result="flows_lost") == 1, "it to be noticed")
        caller.does(f"call sip:1001@{REALM}")
        called = time.monotonic()
        phone = flows[3 - lost]
        invite = phone.awaits("INVITE")
        phone.answer(invite)
        assert time.monotonic() - called < SERVER_WAITS
        caller.hears("state CONFIRMED")
        caller.does("bye")
        phone.answer(phone.awaits("BYE"))
        caller.hears("state DISCONNECTED 200")
