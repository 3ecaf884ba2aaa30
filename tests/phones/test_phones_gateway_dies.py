# SPDX-License-Identifier: Apache-2.0
"""A gateway is killed while agents are registered and talk: nothing of theirs is lost."""

from __future__ import annotations

import pytest
from pjsua_phone_parts import Phone, hang_up, reinvite, talk
from processes import wait_until
from site_parts import REALM, Sites

pytest.importorskip("pjsua2", reason="the wheel pjsua2-python exists for x86-64 only")


def test_a_call_outlives_the_gateway_it_goes_through(sites: Sites) -> None:
    """Meanwhile the agent is called through the other site; afterwards both ends still can change and end the call."""
    sites.write()
    sites.start()
    caller, callee = Phone(sites, "1001"), Phone(sites, "1002")
    other = Phone(sites, "1003", proxies=sites.proxies("tcp")[1:])
    caller.registers()
    callee.registers()
    other.registers(1)
    wait_until(lambda: sites.knows("1001", 2), "all servers to know both flows")
    talk(caller, callee, f"sip:1002@{REALM}")
    sites.pa2.kill()
    talk(other, caller, f"sip:1001@{REALM}")
    hang_up(caller, other)
    callee.hears_the_other()
    sites.pa2.start()
    caller.registers(3)
    callee.registers(3)
    caller.does("choose 0")
    reinvite(caller, callee)
    reinvite(callee, caller)
    caller.hears_the_other()
    hang_up(callee, caller)


def test_a_gateway_that_comes_back_knows_its_agents_before_they_register_anew(sites: Sites) -> None:
    sites.write()
    sites.start()
    callee = Phone(sites, "1001", proxies=sites.proxies("udp")[:1])
    caller = Phone(sites, "1002", proxies=sites.proxies("udp")[1:])
    callee.registers(1)
    caller.registers(1)
    wait_until(lambda: sites.knows("1001", 1), "all servers to know the flow")
    talk(caller, callee, f"sip:1001@{REALM}")
    sites.pa2.kill()
    sites.pa2.start()
    hang_up(caller, callee)
    talk(caller, callee, f"sip:1001@{REALM}")
    hang_up(callee, caller)
    assert callee.heard("registration") == 1


def test_a_phone_without_outbound_is_called_through_the_gateway_that_is_left(sites: Sites) -> None:
    """PJSIP has no outbound over UDP: it gives both sites the same Contact and neither an instance nor a reg-id."""
    sites.write(servers=(1, 4))
    sites.start()
    callee = Phone(sites, "1001", proxies=sites.proxies("udp"))
    callee.registers()
    caller = Phone(sites, "1002", proxies=sites.proxies("tcp")[1:])
    caller.registers(1)
    wait_until(lambda: sites.knows("1001", 2), "the servers to know both flows")
    talk(caller, callee, f"sip:1001@{REALM}")
    hang_up(caller, callee)
    sites.pa2.kill()
    talk(caller, callee, f"sip:1001@{REALM}")
    hang_up(caller, callee)
    assert callee.heard("incoming") == 2
