# SPDX-License-Identifier: Apache-2.0
"""A whole site dies while its agents talk: they talk on, and are called through the other site at once."""

from __future__ import annotations

import pytest
from pjsua_phone_parts import Phone, hang_up, talk
from processes import wait_until
from site_parts import REALM, Sites

pytest.importorskip("pjsua2", reason="the wheel pjsua2-python exists for x86-64 only")


def test_agents_are_called_through_the_site_that_is_left(sites: Sites) -> None:
    """Each site's servers know only what their own gateway told them."""
    sites.write(mirror="site")
    sites.start()
    talking = [Phone(sites, user) for user in ("1001", "1002")]
    for phone in talking:
        phone.registers()
    caller = Phone(sites, "1003", proxies=sites.proxies("tcp")[1:])
    caller.registers(1)
    pa2, pa5 = sites.servers[:3], sites.servers[3:]
    wait_until(lambda: sites.knows("1001", 1) and sites.knows("1002", 1), "all servers to know a flow of each")
    wait_until(lambda: sites.knows("1003", 1, pa5), "the servers of PA5 to know the caller")
    talk(talking[0], talking[1], f"sip:1002@{REALM}")
    for part in (sites.pa2, *pa2):
        part.kill()
    talk(caller, talking[1], f"sip:1002@{REALM}")
    hang_up(talking[1], caller)
    talking[1].does("choose 0")
    for phone in talking:
        phone.hears_the_other()
