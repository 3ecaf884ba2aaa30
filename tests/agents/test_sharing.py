# SPDX-License-Identifier: Apache-2.0
"""Which way leads to an agent of another gateway: that gateway's best address, or the phone itself."""

from __future__ import annotations

import pytest
from agent_parts import row

from ubisip.platform import Endpoint, GatewayNode
from ubisip.proxy.sharing import hop_to, is_open


def endpoints(*texts: str) -> list[Endpoint]:
    parts = [text.split(" ") for text in texts]
    return [Endpoint(transport, host, int(port)) for transport, host, port in parts]


OURS = endpoints("udp 10.1.0.12 5060", "udp 10.2.0.12 5060", "tls 10.1.0.12 5061", "udp fd00::12 5060")


@pytest.mark.parametrize(
    ("listen", "advertise", "expected"),
    [
        (["udp 10.2.0.11 5060"], "", "10.2.0.11:5060"),
        (["udp 192.0.2.1 5060", "udp 10.2.0.11 5080"], "", "10.2.0.11:5080"),
        (["tls 10.1.0.11 5061", "udp 192.0.2.1 5060"], "", "192.0.2.1:5060"),
        (["tls 10.1.0.11 5061"], "", "10.1.0.11:5061;transport=tls"),
        (["tcp 10.1.0.11 5060"], "", ""),
        (["wss 10.1.0.11 443"], "", ""),
        (["udp fd00::11 5060"], "", "[fd00::11]:5060"),
        (["udp 0.0.0.0 5060"], "10.2.0.11", "10.2.0.11:5060"),
        (["udp 0.0.0.0 5060"], "sip.pa2.example.net", ""),
        ([], "", ""),
    ],
)
def test_the_way_to_a_gateway(listen: list[str], advertise: str, expected: str) -> None:
    gateway = GatewayNode("pa2-gw1", "PA2", endpoints(*listen), advertise)
    assert hop_to(gateway, OURS) == expected


@pytest.mark.parametrize(
    ("contact", "changes", "expected"),
    [
        ("sip:1001@192.0.2.1:5062", {}, True),
        ("sip:192.0.2.1:5062;ob", {}, True),
        ("sip:1001@192.0.2.1", {"port": 5060}, True),
        ("sip:1001@192.0.2.1", {}, False),
        ("sip:1001@10.0.0.7:5062", {}, False),
        ("sip:1001@10.0.0.7:5062", {"flags": 4}, True),
        ("sip:1001@[2001:db8::1]:5062", {"ip": "2001:db8::1"}, True),
        ("sip:1001@192.0.2.1:5062", {"stream": 3}, False),
        ("sip:1001@192.0.2.1:5062", {"path": "<sip:edge.example.net;lr>"}, False),
    ],
)
def test_which_phones_can_be_called_without_their_gateway(
    contact: str, changes: dict[str, object], expected: bool
) -> None:
    one = row("1001", contact=contact)._replace(stream=0, path="", flags=0)
    assert is_open(one._replace(**changes)) is expected  # type: ignore[arg-type]
