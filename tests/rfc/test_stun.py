# SPDX-License-Identifier: Apache-2.0
"""RFC 5626 section 4.4.2, RFC 8489: STUN Binding requests as keep-alives of flows over UDP."""

from __future__ import annotations

import struct

import pytest
from agents import agents, counter, phone, registrar
from wire import SBC, Wire

COOKIE = 0x2112A442
ID = bytes(range(12))


def binding_request(attributes: bytes = b"", kind: int = 1) -> bytes:
    return struct.pack(">HHI", kind, len(attributes), COOKIE) + ID + attributes


def mapped(data: bytes) -> tuple[str, int]:
    """The address in XOR-MAPPED-ADDRESS, the one attribute of a success."""
    kind, length, cookie = struct.unpack(">HHI", data[:8])
    assert (kind, cookie, data[8:20], length) == (0x0101, COOKIE, ID, len(data) - 20)
    attribute, size, family, port = struct.unpack(">HHHH", data[20:28])
    assert (attribute, size, family) == (0x0020, 8, 1)
    ip = int.from_bytes(data[28:32], "big") ^ COOKIE
    return ".".join(str(ip >> shift & 255) for shift in (24, 16, 8, 0)), port ^ COOKIE >> 16


def answers(wire: Wire, address: tuple[str, int], data: bytes) -> list[bytes]:
    before = len(wire.log)
    wire.agent(*address).send(data)
    return [packet.data for packet in wire.log[before:]]


def test_a_phone_hears_its_own_address() -> None:
    wire = registrar()
    alice = phone(wire)
    (answer,) = answers(wire, alice.address, binding_request())
    assert mapped(answer) == alice.address and counter(wire, "stun") == 1


def test_so_does_a_peer() -> None:
    wire = registrar()
    assert mapped(answers(wire, SBC, binding_request())[0]) == SBC


def test_attributes_concern_nobody() -> None:
    wire = registrar()
    alice = phone(wire)
    software = struct.pack(">HH", 0x8022, 4) + b"abcd"
    assert mapped(answers(wire, alice.address, binding_request(software))[0]) == alice.address


def test_strangers_are_answered_at_the_rate_of_refusals() -> None:
    wire = registrar(agents(limits={"refusals": 5}))
    heard = [len(answers(wire, ("192.0.2.9", n + 1024), binding_request())) for n in range(20)]
    assert sum(heard) == 5 and counter(wire, "strangers_dropped") == 15
    alice_wire_goes_on = phone(wire)
    assert len(answers(wire, alice_wire_goes_on.address, binding_request())) == 1


@pytest.mark.parametrize("data", [
    binding_request(kind=0x0101), binding_request(kind=0x0011), binding_request(kind=3), binding_request()[:-1],
    binding_request(b"abc") + b"x", binding_request().replace(b"\x21\x12", b"\x21\x13"), b"\x00" * 20, b"\x00\x01",
    b"\x01",
    struct.pack(">HHI", 1, 0xFFFF, COOKIE) + ID,
])
def test_what_is_no_binding_request_is_dropped(data: bytes) -> None:
    wire = registrar()
    alice = phone(wire)
    assert answers(wire, alice.address, data) == []


def test_by_a_connection_it_is_nothing() -> None:
    wire = registrar(agents(listen=("udp:127.0.0.1:5060", "tcp:127.0.0.1:5060")))
    before = len(wire.log)
    wire.sbc.send(binding_request(), listener=1, stream=7)
    assert len(wire.log) == before


@pytest.mark.parametrize("data", [b"\r\n\r\n", b"\r\n", b"\0", b"\0\0\0\0"])
def test_other_keep_alives_are_counted(data: bytes) -> None:
    wire = registrar()
    assert answers(wire, phone(wire).address, data) == [] and counter(wire, "keep_alives") == 1
