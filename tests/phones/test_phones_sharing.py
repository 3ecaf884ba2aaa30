# SPDX-License-Identifier: Apache-2.0
"""Two gateways of one site that share their bindings: PJSIP phones call each other through both."""

from __future__ import annotations

import shutil
import socket

import pytest
from pjsua_phone_parts import Phone, hang_up, reinvite, talk
from processes import wait_until
from site_parts import REALM, Sites

pytest.importorskip("pjsua2", reason="the wheel pjsua2-python exists for x86-64 only")


@pytest.fixture
def shared(sites: Sites) -> Sites:
    """Both gateways in PA2, with a Redis; no server knows any agent."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    host = sites.place.other(250)[0]
    sites.place.run("redis", ["redis-server", "--bind", host, "--port", "6379", "--save", "", "--protected-mode", "no"])
    wait_until(lambda: _accepts(host), "Redis to listen")
    sites.write(servers=(1,), second="PA2", soft=f"redis://{host}:6379/0", mirror="off")
    sites.start()
    return sites


def _accepts(host: str) -> bool:
    with socket.socket() as one:
        return one.connect_ex((host, 6379)) == 0


def known(sites: Sites, first: int, second: int) -> None:
    """Wait until each gateway knows so many bindings of the other."""
    wait_until(
        lambda: [one.counter("ubisip_bindings_shared") for one in sites.gateways] == [first, second],
        "the gateways to know each other's agents",
    )


def test_phones_of_two_gateways_talk_over_their_connections(shared: Sites) -> None:
    first, second = shared.proxies("tcp")
    one, other = Phone(shared, "1001", proxies=[first]), Phone(shared, "1002", proxies=[second])
    one.registers(1)
    other.registers(1)
    known(shared, 1, 1)
    talk(one, other, f"sip:1002@{REALM}")
    reinvite(other, one)
    reinvite(one, other)
    hang_up(other, one)
    talk(other, one, f"sip:1001@{REALM}")
    hang_up(other, one)


def test_a_gateway_dies_and_the_other_carries_on_the_call_that_went_through_both(shared: Sites) -> None:
    """The caller called through the gateway that dies; it is registered with the other one as well."""
    first, second = shared.proxies("tcp")
    caller, callee = Phone(shared, "1001", proxies=[first, second]), Phone(shared, "1002", proxies=[second])
    caller.registers(2)
    callee.registers(1)
    known(shared, 2, 1)
    talk(caller, callee, f"sip:1002@{REALM}")
    assert [one.counter("ubisip_calls_total") for one in shared.gateways] == [1, 1]
    shared.pa2.kill()
    reinvite(callee, caller)
    callee.hears_the_other()
    hang_up(callee, caller)
