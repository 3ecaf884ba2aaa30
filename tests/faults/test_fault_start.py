# SPDX-License-Identifier: Apache-2.0
"""A gateway that cannot start says why in a line; strangers are refused, and past a rate not even that."""

from __future__ import annotations

import socket

import pytest
from processes import Gateway, Place, wait_until

from ubisip import keys

REFUSALS = 20


def ends(gateway: Gateway) -> tuple[int | None, list[str]]:
    """Exit code, and what it said."""
    gateway.launch()
    wait_until(lambda: gateway.exit_code() is not None, "the gateway to give up")
    return gateway.exit_code(), gateway.log().splitlines()


def test_a_port_already_bound(place: Place) -> None:
    place.write()
    place.start_gateway()
    code, lines = ends(place.new_gateway())
    assert code == 1
    assert len(lines) == 1 and f"udp:{place.gateway()[0]}:5060" in lines[0] and "in use" in lines[0]


def test_an_admin_port_already_bound(place: Place) -> None:
    place.write()
    host, port = place.admin().split(":")
    with socket.create_server((host, int(port))):
        code, lines = ends(place.new_gateway())
    assert code == 1
    assert len(lines) == 1 and place.admin() in lines[0] and "in use" in lines[0]


def test_a_key_ring_that_is_none(place: Place) -> None:
    place.write()
    (place.directory / "cluster.key").write_text("0123456789\n")
    code, lines = ends(place.new_gateway())
    assert code == 2
    assert len(lines) == 1 and "cluster.key" in lines[0]
    assert "0123456789" not in lines[0]


def test_no_key_ring(place: Place) -> None:
    place.write()
    (place.directory / "cluster.key").unlink()
    code, lines = ends(place.new_gateway())
    assert code == 2
    assert len(lines) == 1 and "cluster.key" in lines[0] and "ubisip key" in lines[0]


def test_every_mistake_of_the_file_is_told(place: Place) -> None:
    place.write(policy="dice", t1=99)
    code, lines = ends(place.new_gateway())
    assert code == 2
    assert any("routing.policy" in line for line in lines) and any("routing.t1" in line for line in lines)


def test_a_gateway_with_another_key_follows_no_foreign_token(place: Place) -> None:
    """A call set up with one key ring; the gateway comes back with another one and refuses to be led."""
    place.write(servers=1)
    server = place.answer(place.server())
    gateway = place.start_gateway()
    load = place.call(place.carrier(), place.gateway(), calls=1, hold=3.0)
    wait_until(lambda: server.calls() and gateway.counter("ubisip_calls") == 1, "the call to stand")
    gateway.kill()
    (place.directory / "cluster.key").unlink()
    keys.create(place.directory / "cluster.key")
    gateway.start()
    figures = load.wait(30)
    assert figures.failed == 1  # SIPp takes 403 to its BYE for a failure
    assert gateway.counter("ubisip_core_total", counter="bad_tokens") == 1


def invite(number: int, address: tuple[str, int]) -> bytes:
    host, port = address
    lines = [
        "INVITE sip:+33155500001@gateway.example SIP/2.0",
        f"Via: SIP/2.0/UDP {host}:{port};branch=z9hG4bK-stranger-{number}",
        "Max-Forwards: 70",
        f"From: <sip:mallory@{host}>;tag={number}",
        "To: <sip:+33155500001@gateway.example>",
        f"Call-ID: stranger-{number}",
        "CSeq: 1 INVITE",
        f"Contact: <sip:mallory@{host}:{port}>",
        "Content-Length: 0",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def answers(stranger: socket.socket) -> list[bytes]:
    """The start lines that have come so far."""
    lines = []
    while True:
        try:
            lines.append(stranger.recv(65535).partition(b"\r\n")[0])
        except BlockingIOError:
            return lines


@pytest.mark.parametrize("burst", [10, 200])
def test_strangers_get_403_and_past_a_rate_silence(place: Place, record: dict[str, float], burst: int) -> None:
    place.write(servers=1, limits={"refusals": REFUSALS})
    server = place.answer(place.server())
    gateway = place.start_gateway()
    with socket.socket(type=socket.SOCK_DGRAM) as stranger:
        stranger.bind(place.other())
        stranger.setblocking(False)
        for number in range(burst):
            stranger.sendto(invite(number, place.other()), place.gateway())
        dropped = 'ubisip_dropped_total{cause="stranger"}'
        refused = 'ubisip_core_total{counter="strangers_refused"}'
        wait_until(lambda: sum(gateway.metrics()[name] for name in (dropped, refused)) == burst, "all to be counted")
        lines = answers(stranger)
        record |= {"sent": burst, "refused": len(lines), "dropped": gateway.metrics()[dropped]}
        assert {line[:11] for line in lines} == {b"SIP/2.0 403"}
        assert len(lines) == gateway.metrics()[refused]
        assert len(lines) == burst if burst < REFUSALS else REFUSALS <= len(lines) < burst / 2
    assert server.calls() == []
    assert gateway.counter("ubisip_core_total", counter="retransmitted") == 0
    assert gateway.counter("ubisip_transactions") <= 5  # probes
