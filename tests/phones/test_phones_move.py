# SPDX-License-Identifier: Apache-2.0
"""A phone moves to another address in mid-call: its call follows it."""

from __future__ import annotations

import pytest
from pjsua_phone_parts import Phone
from plain_phone import PlainPhone
from processes import wait_until
from site_parts import REALM, Sites

pytest.importorskip("pjsua2", reason="the wheel pjsua2-python exists for x86-64 only")


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_what_the_other_sends_reaches_a_phone_that_has_moved(sites: Sites, transport: str) -> None:
    """It registers anew from there, with the instance that it had; the other's requests still bear its old address."""
    sites.write(servers=(1, 4))
    sites.start()
    place = sites.place
    caller = Phone(sites, "1002", proxies=sites.proxies("tcp")[1:])
    caller.registers(1)
    with PlainPhone("1001", place.other(100)[0], place.gateway(), transport) as phone:
        assert phone.register().status == 200
        wait_until(lambda: sites.knows("1001", 1), "the servers to know the phone")
        caller.does(f"call sip:1001@{REALM}")
        phone.answer(phone.awaits("INVITE"))
        phone.awaits("ACK")
        caller.hears("state CONFIRMED")
        old = phone.uri
        phone.move(place.other(101)[0])
        assert phone.register().status == 200
        caller.does("reinvite")
        again = phone.awaits("INVITE")
        assert again.uri == old
        phone.answer(again)
        phone.awaits("ACK")
        caller.does("bye")
        bye = phone.awaits("BYE")
        assert bye.call_id == again.call_id
        phone.answer(bye)
        caller.hears("state DISCONNECTED 200")
        assert all(len(server.contacts("1001")) == 1 for server in sites.servers)
