# SPDX-License-Identifier: Apache-2.0
"""PJSIP phones over TLS, which verify the gateway; its certificate is renewed while they talk."""

from __future__ import annotations

import signal
import ssl

import pytest
from certificates import write_authority
from pjsua_phone_parts import Phone, hang_up, reinvite, talk
from processes import wait_until
from site_parts import REALM, Sites

pytest.importorskip("pjsua2", reason="the wheel pjsua2-python exists for x86-64 only")


def shown_at(sites: Sites) -> list[str]:
    """The certificate that each gateway shows who connects now."""
    return [ssl.get_server_certificate((sites.place.gateway(number)[0], 5061), timeout=5) for number in (1, 2)]


def test_a_certificate_is_renewed_while_phones_talk(sites: Sites) -> None:
    """No connection ends: nobody registers anew, the call goes on; who connects afterwards sees the new one."""
    sites.write("tls:HOST:5061", servers=(1, 4))
    sites.start()
    ca = write_authority(sites.place.directory)
    caller, callee = (Phone(sites, user, proxies=sites.proxies("tls"), ca=ca) for user in ("1001", "1002"))
    caller.registers()
    callee.registers()
    wait_until(lambda: sites.knows("1002", 2), "the servers to know both flows")
    talk(caller, callee, f"sip:1002@{REALM}")
    old = shown_at(sites)
    sites.write_certificate()
    for gateway in sites.gateways:
        gateway.signal(signal.SIGHUP)
    wait_until(lambda: not set(old) & set(shown_at(sites)), "the new certificate to be shown")
    reinvite(callee, caller)
    hang_up(caller, callee)
    assert [phone.heard("registration") for phone in (caller, callee)] == [2, 2]
    late = Phone(sites, "1003", proxies=sites.proxies("tls"), ca=ca)
    late.registers()
    talk(late, caller, f"sip:1001@{REALM}")
    hang_up(caller, late)


def test_a_phone_does_not_register_with_a_gateway_whose_authority_it_does_not_know(sites: Sites) -> None:
    sites.write("tls:HOST:5061", servers=(1, 4))
    sites.start()
    phone = Phone(sites, "1001", proxies=sites.proxies("tls"), ca=write_authority(sites.place.directory, "strangers"))
    phone.hears("registration 1 503")
    assert sites.servers[0].contacts("1001") == []
