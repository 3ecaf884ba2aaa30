# SPDX-License-Identifier: Apache-2.0
"""PJSIP phones registered with both sites: known to the servers, called by each other, heard both ways."""

from __future__ import annotations

import pytest
from pjsua_phone_parts import Phone, hang_up, talk
from processes import wait_until
from site_parts import REALM, Sites

pytest.importorskip("pjsua2", reason="the wheel pjsua2-python exists for x86-64 only")


def test_dual_registration_is_seen_by_all_six_servers(sites: Sites) -> None:
    sites.write()
    sites.start()
    phone = Phone(sites, "1001")
    phone.registers()
    wait_until(lambda: sites.knows("1001", 2), "all servers to know both flows")
    for server in sites.servers:
        paths = [contact["Path"] for contact in server.contacts("1001")]
        assert [sites.place.gateway(number)[0] in path for number, path in enumerate(paths, 1)] == [True, True]


def test_each_site_tells_its_own_servers(sites: Sites) -> None:
    sites.write(mirror="site")
    sites.start()
    phone = Phone(sites, "1001")
    phone.registers()
    wait_until(lambda: sites.knows("1001", 1), "all servers to know a flow")
    for server in sites.servers:
        contact = server.contacts("1001")[0]
        site = 1 if server.number <= 3 else 2
        assert (contact["Reg-Id"], sites.place.gateway(site)[0] in contact["Path"]) == (site, True)


def test_phones_talk_through_a_server(sites: Sites) -> None:
    sites.write()
    sites.start()
    caller, callee = Phone(sites, "1001"), Phone(sites, "1002")
    caller.registers()
    callee.registers()
    wait_until(lambda: sites.knows("1002", 2), "all servers to know both flows")
    talk(caller, callee, f"sip:1002@{REALM}")
    hang_up(callee, caller)
    talk(callee, caller, f"sip:1001@{REALM}")
    hang_up(callee, caller)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_phone_that_leaves_one_site_is_known_by_the_other_alone(sites: Sites, transport: str) -> None:
    """Over UDP it has no outbound: its Contact is the same at both sites."""
    sites.write(servers=(1, 4))
    sites.start()
    phone = Phone(sites, "1001", proxies=sites.proxies(transport))
    phone.registers()
    wait_until(lambda: sites.knows("1001", 2), "all servers to know both flows")
    phone.does("unregister 1")
    wait_until(lambda: sites.knows("1001", 1), "all servers to know one flow")
    for server in sites.servers:
        assert sites.place.gateway(2)[0] in server.contacts("1001")[0]["Path"]
    phone.does("unregister 2")
    wait_until(lambda: sites.knows("1001", 0), "all servers to know none")
