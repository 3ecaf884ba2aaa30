# SPDX-License-Identifier: Apache-2.0
"""REGISTERs at the bounds of what is read and kept, and beyond: nothing breaks out of its place."""

from __future__ import annotations

import pytest
from agents import DOMAIN, INSTANCE, Phone, agents, bindings, counter, phone, registrar
from wire import Wire

from ubisip.core.message import Message


def mirrored(**section: object) -> Wire:
    wire = registrar(agents(1, mirror="site", **section), users=("alice", "a" * 244))
    tel = wire.tel()
    tel.handler = lambda packet: packet.method == "REGISTER" and tel.reply(packet, 200)
    return wire


def sound(wire: Wire) -> None:
    """All that was sent is a message, and one message."""
    for packet in wire.log:
        Message(packet.data)
        assert packet.data.count(b"\r\n\r\n") == 1 and b"\0" not in packet.data


def uri(length: int) -> str:
    return "sip:" + "a" * (length - 6) + "@h"


@pytest.mark.parametrize(("length", "status"), [(511, 200), (512, 200), (513, 400), (5000, 400)])
def test_the_longest_contact(length: int, status: int) -> None:
    wire = mirrored()
    alice = phone(wire)
    answer = alice.again(contacts=[f"<{uri(length)}>;expires=600"])
    assert answer.status == status
    assert (uri(length) in {row[1] for row in bindings(wire)}) == (status == 200)
    sound(wire)


@pytest.mark.parametrize(("length", "status"), [(127, 200), (128, 200), (129, 400)])
def test_the_longest_instance(length: int, status: int) -> None:
    wire = mirrored()
    assert Phone(wire, instance="x" * length, reg_id=1).register().status == status
    sound(wire)


@pytest.mark.parametrize(("length", "status"), [(244, 200), (245, 404), (600, 404)])
def test_the_longest_address_of_record(length: int, status: int) -> None:
    """256 octets with its domain; what escapes stand for counts, not they."""
    wire = mirrored()
    alice = Phone(wire, "a" * length, contact=f"<{uri(512)}>", instance="i" * 128, reg_id=65535,
        username="a" * min(length, 244))
    aor = f"<sip:{'%61' * length}@{DOMAIN}>"
    answer = alice.register(headers=[("User-Agent", "u" * 300)], to=aor)
    assert answer.status == status
    sound(wire)


def test_everything_at_its_longest_at_once() -> None:
    wire = mirrored()
    path = "<sip:" + "p" * 1009 + "@h;lr;ob>"
    alice = Phone(wire, "a" * 244, contact=f"<{uri(512)}>;q=0.123", instance="i" * 128, reg_id=65535,
        call_id="c" * 5000)
    answer = alice.register(headers=[("Path", path[:5] + path[9:]), ("User-Agent", "u" * 5000)])
    assert answer.status == 200
    wire.tel().send(wire.request("INVITE", f"sip:{'a' * 244}@{DOMAIN}", source=wire.tel().address))
    assert wire.engine.take_journal()
    (row,) = bindings(wire)
    assert [len(row[at]) for at in (0, 1, 2, 6, 14)] == [256, 512, 128, 256, 64]
    assert alice.unregister().status == 200
    sound(wire)


def test_a_name_whose_every_octet_must_be_escaped() -> None:
    """Three octets for each in From and To of what servers are told."""
    name = "\u00e9" * 122
    wire = registrar(agents(1, mirror="site"), users=(name,))
    wire.tel().handler = lambda packet: packet.method == "REGISTER" and wire.tel().reply(packet, 200)
    written = "".join(f"%{octet:02X}" for octet in name.encode())
    alice = Phone(wire, written, contact=f"<{uri(512)}>", instance="i" * 128, reg_id=1, username=name)
    assert alice.register().status == 200
    assert wire.tel().got("REGISTER").get("To").lower() == f"<sip:{written}@{DOMAIN}>".lower()
    sound(wire)


@pytest.mark.parametrize("count", [150, 240, 300])
def test_many_header_lines(count: int) -> None:
    wire = mirrored()
    alice = phone(wire)
    answer = alice.again([(f"X-{n}", "y") for n in range(count)])
    assert answer is None or answer.status in (200, 513)
    sound(wire)


def test_a_register_of_64_kib() -> None:
    wire = mirrored()
    alice = phone(wire)
    assert alice.again([("X-Long", "y" * 60_000)]).status == 200
    assert alice.again([("Path", "<sip:" + "a" * 60_000 + "@h>")]).status == 400
    assert alice.again([("Contact", "<sip:" + "a" * 60_000 + "@h>")]).status == 400
    assert alice.again([("Expires", "9" * 60_000)]).status == 200
    assert alice.again([("Supported", ",".join(["outbound"] * 6_000))]).status == 200
    sound(wire)


@pytest.mark.parametrize("contact", [
    "<sip:alice@127.0.9.1:5062>;x=\"a\r\n b\"", "<sip:alice@127.0.9.1:5062>;\r\n q=0.5;expires\r\n\t=\r\n 100",
    "\"a\r\n b\" <sip:alice@127.0.9.1:5062>", "\"NUL \0 here\" <sip:alice@127.0.9.1:5062>", "<sip:a\0b@h>",
    "<sip:a@h\0>",
    '<sip:alice@127.0.9.1:5062>;+sip.instance="a\0b"', '<sip:alice@127.0.9.1:5062>;+sip.instance="a\r\n b"',
    '<sip:alice@127.0.9.1:5062>;+sip.instance="a\\"', "<sip:alice@127.0.9.1:5062>;+sip.instance=abc",
    "<sip:alice@[::1]:5062>",
    "<sip:alice@[2001:db8::1]:5062;transport=udp>;expires=100", "<sip:alice@[::ffff:127.0.9.1]>",
    "<sip:alice@[:::]:5062>",
    "<sip:alice@127.0.9.1:5062", "sip:alice@127.0.9.1:5062>", "<<sip:alice@h>>", "\"unclosed <sip:a@h>",
    "<sip:a@h> trailing",
])
def test_contacts_that_would_like_to_be_more(contact: str) -> None:
    wire = mirrored()
    alice = phone(wire, instance=INSTANCE)
    answer = alice.again(contacts=[contact])
    assert answer.status in (200, 400)
    wire.tel().send(wire.request("INVITE", f"sip:alice@{DOMAIN}", source=wire.tel().address))
    assert answer.status == 200 or len(bindings(wire)) == 1
    sound(wire)


@pytest.mark.parametrize("path", ["<sip:a@h>\r\n ,<sip:b@h;lr>", "<sip:a@h>;x=\"a\r\n b\"", "\"a\r\n b\"<sip:a@h>"])
def test_a_folded_path_comes_back_unfolded(path: str) -> None:
    wire = mirrored()
    answer = phone(wire).again([("Path", path)])
    assert answer.status == 200 and len(answer.lines("Path")) == 1 and b"\r\n " not in answer.data
    sound(wire)


@pytest.mark.parametrize("expires", ["-1", "", " ", "0x10", "1.5", "9" * 30, "2147483647", "2147483648",
    "18446744073709551616"])
def test_odd_times(expires: str) -> None:
    wire = mirrored()
    answer = Phone(wire).register([("Expires", expires)])
    assert answer.status == 200 and bindings(wire)[0][8] - bindings(wire)[0][9] in (3600, 7200)


@pytest.mark.parametrize(("q", "kept"), [
    ("0.5", 500), ("1", 1000), ("1.000", 1000), ("0", 0), ("0.123", 123), ("0.12345", 123), ("9", 1000), (".", 0),
    ("x", 0),
    ("0.5.5", 555)])
def test_odd_preferences(q: str, kept: int) -> None:
    wire = registrar()
    assert Phone(wire, contact=f"<sip:alice@127.0.9.1:5062>;q={q}").register().status == 200
    assert bindings(wire)[0][4] in (kept, 550)


@pytest.mark.parametrize("reg_id", ["0", "-1", "x", "65535", "65536", "99999999999"])
def test_odd_reg_ids(reg_id: str) -> None:
    wire = mirrored()
    alice = Phone(wire, contact=f'<sip:alice@127.0.9.1:5062>;+sip.instance="{INSTANCE}";reg-id={reg_id}')
    for _ in range(2):
        assert alice.register([("Supported", "outbound")]).status == 200
    assert len(bindings(wire)) == 1 and 0 <= bindings(wire)[0][3] <= 65535
    sound(wire)


def test_the_table_is_bounded_whatever_one_agent_does() -> None:
    wire = registrar(agents(max_contacts=5))
    alice = phone(wire)
    for number in range(200):
        alice.again(contacts=[f"<sip:a{number}@127.0.9.1>"])
    assert len(bindings(wire)) == 5


def test_places_in_the_tables_are_used_again() -> None:
    wire = registrar(agents(limits={"bindings": 4}))
    alice = phone(wire)
    for _ in range(50):
        assert alice.unregister().status == 200
        assert alice.again().status == 200
    assert (len(bindings(wire)), counter(wire, "bound_bindings")) == (1, 0)


def test_indexes_that_grow_find_everybody() -> None:
    wire = registrar(agents(limits={"bindings": 5000}), users=())
    wall = wire.now + 1.79e9
    rows = [(f"u{n}@{DOMAIN}", f"sip:u{n}@10.0.{n >> 8}.{n & 255}", INSTANCE, 0, 1000, "", "c", 1, wall + 60 + n % 7,
        wall,
             f"10.0.{n >> 8}.{n & 255}", 5060, 0, 0, "") for n in range(4000)]
    assert wire.engine.restore(rows, wire.now) == 4000
    for n in (0, 1023, 1024, 2047, 3999):
        wire.tel().send(wire.request("INVITE", f"sip:u{n}@{DOMAIN}", source=wire.tel().address))
        assert wire.log[-1].address == (f"10.0.{n >> 8}.{n & 255}", 5060)
    wire.run(80)
    assert bindings(wire) == [] and counter(wire, "expired") == 4000
