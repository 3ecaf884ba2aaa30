# SPDX-License-Identifier: Apache-2.0
"""What a Message tells of a datagram (RFC 3261 section 7): every field, compact forms, folding, framing."""

from __future__ import annotations

import pytest

from ubisip.core.message import Message, ParseError, use_scanner

BODY = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\n"
INVITE = (
    b"INVITE sip:+33155;x=y@far.example:5070;user=phone SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.1:5090;branch=z9hG4bK-one;rport\r\n"
    b"Via: SIP/2.0/TCP two.example;branch=z9hG4bK-two, SIP/2.0/TLS three.example;branch=z9hG4bK-three\r\n"
    b"Max-Forwards: 70\r\n"
    b'From: "Alice, \\"the\\" <caller>" <sip:0102030405@192.0.2.1>;tag=from-tag;x=1\r\n'
    b"To: <sip:+33155@far.example;tag=no-tag>;y=2\r\n"
    b"Call-ID: a84b4c76e66710@pc33.example\r\n"
    b"CSeq: 314159 INVITE\r\n"
    b"X-One: 1\r\nX-Two: a\r\nx-one: 2, 3\r\n"
    b"Content-Type: application/sdp\r\n"
    b"Content-Length: " + str(len(BODY)).encode() + b"\r\n\r\n" + BODY
)
RINGING = (
    b"SIP/2.0 180 Ringing now, please wait\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK-one\r\n"
    b"From: <sip:a@h.example>;tag=f\r\nTo: sip:b@h.example;tag=t\r\nCall-ID: c\r\nCSeq: 7 INVITE\r\n\r\n"
)


def changed(old: bytes, new: bytes, data: bytes = INVITE) -> Message:
    """The message with one part replaced."""
    assert old in data
    return Message(data.replace(old, new))


def fault(data: bytes) -> ParseError:
    """The error that *data* brings."""
    with pytest.raises(ParseError) as caught:
        Message(data)
    return caught.value


def test_request_fields() -> None:
    message = Message(INVITE)
    assert message.is_request
    assert (message.method, message.status, message.reason) == ("INVITE", 0, "")
    assert message.uri == "sip:+33155;x=y@far.example:5070;user=phone"
    assert message.call_id == "a84b4c76e66710@pc33.example"
    assert message.cseq == 314159
    assert (message.from_tag, message.to_tag) == ("from-tag", "")
    assert (message.from_user, message.to_user, message.uri_user) == ("0102030405", "+33155", "+33155;x=y")
    assert message.branch == "z9hG4bK-one"
    assert message.body == BODY
    assert message.data == INVITE


def test_response_fields() -> None:
    message = Message(RINGING)
    assert not message.is_request
    assert (message.method, message.status, message.reason) == ("INVITE", 180, "Ringing now, please wait")
    assert (message.uri, message.uri_user) == ("", "")
    assert (message.from_tag, message.to_tag, message.cseq) == ("f", "t", 7)
    assert message.branch == "z9hG4bK-one"
    assert message.body == b""


def test_headers_in_order_as_written() -> None:
    names = [name for name, _ in Message(INVITE).headers]
    assert names == [
        "Via", "Via", "Max-Forwards", "From", "To", "Call-ID", "CSeq", "X-One", "X-Two", "x-one", "Content-Type",
        "Content-Length",
    ]
    assert ("x-one", "2, 3") in Message(INVITE).headers


def test_get_ignores_case_and_knows_compact_forms() -> None:
    message = Message(INVITE)
    assert message.get("x-ONE") == "1"
    assert message.get("i") == message.get("call-id") == message.get("CALL-ID") == "a84b4c76e66710@pc33.example"
    assert message.get_all("X-One") == ["1", "2, 3"]
    assert len(message.get_all("v")) == 2
    assert message.get("Nothing") is None
    assert message.get("Nothing", "default") == "default"
    assert message.get_all("Nothing") == []


@pytest.mark.parametrize(
    ("long", "short"),
    [(b"Via", b"v"), (b"From", b"f"), (b"To", b"t"), (b"Call-ID", b"i"), (b"Content-Length", b"l"),
     (b"Content-Type", b"c")],
)
def test_compact_forms(long: bytes, short: bytes) -> None:
    compact = changed(b"\r\n" + long + b":", b"\r\n" + short + b":")
    full = Message(INVITE)
    for name in ("branch", "from_tag", "to_tag", "call_id", "cseq", "body", "from_user", "to_user"):
        assert getattr(compact, name) == getattr(full, name)
    assert compact.get_all(long.decode()) == full.get_all(long.decode())


@pytest.mark.parametrize(("long", "short"), [("Contact", "m"), ("Subject", "s"), ("Supported", "k"), ("Event", "o"),
                                             ("Refer-To", "r"), ("Allow-Events", "u"), ("Content-Encoding", "e")])
def test_compact_forms_of_other_headers(long: str, short: str) -> None:
    message = changed(b"X-Two:", short.upper().encode() + b" :")
    assert message.get(long) == message.get(short) == "a"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"CSeq: 314159 INVITE", b"CSeq:\r\n 314159\r\n\tINVITE"),
        (b"Call-ID: ", b"Call-ID:\r\n\t "),
        (b"Call-ID: ", b"Call-ID  :"),
        (b"CSeq: ", b"cSeQ:"),
        (b";tag=from-tag", b"\r\n ;\r\n tag\r\n =\r\n from-tag"),
        (b";branch=z9hG4bK-one", b" ; branch = z9hG4bK-one "),
        (b"SIP/2.0/UDP 192.0.2.1:5090", b"SIP  / 2.0 / UDP \r\n 192.0.2.1 : 5090"),
        (b"SIP/2.0/UDP 192.0.2.1:5090", b"SIP/2.0/ UDP 192.0.2.1:5090"),
        (b"Max-Forwards: 70", b"Max-Forwards:  70   "),
        (b"Content-Length: ", b"Content-Length:\r\n  "),
        (b"tag=from-tag", b"TAG=from-tag"),
        (b"Max-Forwards: 70", b"Max-Forwards: 0070"),
        (b"CSeq: 314159", b"CSeq: 00314159"),
    ],
)
def test_space_and_folding_make_no_difference(old: bytes, new: bytes) -> None:
    message = changed(old, new)
    assert message.cseq == 314159
    assert message.call_id == "a84b4c76e66710@pc33.example"
    assert message.from_tag == "from-tag"
    assert message.branch == "z9hG4bK-one"
    assert message.body == BODY


@pytest.mark.parametrize(
    ("from_", "tag", "user"),
    [
        (b"sip:u@h;tag=a", "a", "u"),
        (b"<sip:u@h;tag=inner>", "", "u"),
        (b"<sip:u@h;tag=inner>;tag=a", "a", "u"),
        (b'"x;tag=q" <sip:u@h>;tag=a', "a", "u"),
        (b'"x\\";tag=q<sip:z@h>\\"" <sip:u@h>;tag=a', "a", "u"),
        (b'<sip:u@h>;x="tag=q;tag=r";tag=a', "a", "u"),
        (b"<sip:u:pw@h>;tag=a", "a", "u"),
        (b"<sip:h>;tag=a", "a", ""),
        (b"<sip:%75ser@h>;tag=a", "a", "%75ser"),
        (b"<sips:u@[2001:db8::1]:5061>;tag=a;tagged=b", "a", "u"),
        (b"A. N. Other<sip:u@h>;tag=a", "a", "u"),
        (b"<tel:+33155>;tag=a", "a", None),
    ],
)
def test_tags_and_users(from_: bytes, tag: str, user: str | None) -> None:
    message = changed(b"From: <sip:a@h.example>;tag=f", b"From: " + from_, RINGING)
    assert message.from_tag == tag
    assert user is None or message.from_user in (user, user.replace("%75", "u"))


@pytest.mark.parametrize("scanner", ["", "sse2", "scalar"])
@pytest.mark.parametrize(
    "name",
    ["Content-Lengths", "Content-Lengxx", "Max-Forwarded", "Fromage", "CSeqs", "Call-Info", "Call-ID-2", "Tos",
     "Viaduct", "Routes", "Record-Routes", "Route-Record"],
)  # fmt: skip
def test_a_name_that_begins_as_a_known_one_is_another(name: str, scanner: str) -> None:
    if not use_scanner(scanner):
        pytest.skip(f"this processor does not run {scanner}")
    try:
        message = changed(b"X-One: 1", name.encode() + b": not-what-it-seems\r\nX-One: 1")
    finally:
        use_scanner("")
    assert message.get(name) == "not-what-it-seems"
    assert message.body == Message(INVITE).body and message.call_id == Message(INVITE).call_id


@pytest.mark.parametrize("scanner", ["", "sse2", "scalar"])
@pytest.mark.parametrize("filler", range(70))
def test_line_ends_wherever_they_fall(filler: int, scanner: str) -> None:
    """Octets are looked at by 64: a CR may be the last of one block and its LF the first of the next."""
    if not use_scanner(scanner):
        pytest.skip(f"this processor does not run {scanner}")
    mark = b"X-One: 1"
    odd = b"X-Odd:" + b"\t" * filler + b"\x08\t.\x0b" + b"o" * filler + b"\r\n" + mark
    try:
        message = changed(mark, odd)
        for lone in (b"\r", b"\n", b"\r\r\n", b"\n\r"):
            error = fault(INVITE.replace(mark, odd[: 6 + filler] + lone + odd[6 + filler :]))
            assert (error.status, error.reason) == (400, "Bad Header Line")
    finally:
        use_scanner("")
    assert message.get("X-Odd") == "\x08\t.\x0b" + "o" * filler
    assert [pair for pair in message.headers if pair[0] != "X-Odd"] == Message(INVITE).headers


def test_octets_after_content_length_are_cut() -> None:
    message = Message(INVITE + b"INVITE sip:other SIP/2.0\r\n\r\n")
    assert message.data == INVITE
    assert message.body == BODY


def test_without_content_length_the_body_is_the_rest() -> None:
    line = b"Content-Length: " + str(len(BODY)).encode() + b"\r\n"
    message = changed(line, b"")
    assert message.body == BODY
    assert message.get("Content-Length") is None


def test_line_ends_before_the_message_are_ignored() -> None:
    assert Message(b"\r\n\r\n" + INVITE).method == "INVITE"


def test_a_body_may_hold_anything() -> None:
    body = bytes(range(256)) + b"\r\n\r\nVia: x\r\n\r\n"
    line = b"Content-Length: " + str(len(BODY)).encode()
    message = Message(INVITE.replace(line, b"Content-Length: " + str(len(body)).encode()).replace(BODY, body))
    assert message.body == body


def test_a_message_is_independent_of_its_buffer() -> None:
    buffer = bytearray(INVITE)
    message = Message(bytes(buffer))
    buffer[:] = b"x" * len(buffer)
    assert message.data == INVITE


def test_a_message_is_immutable() -> None:
    message = Message(INVITE)
    for name in ("method", "cseq", "data"):
        with pytest.raises(AttributeError):
            setattr(message, name, "x")


def test_the_largest_cseq() -> None:
    """RFC 3261 section 8.1.1.5 asks for less than 2**31; a proxy has no reason to refuse what 32 bits hold."""
    assert changed(b"CSeq: 314159", b"CSeq: 2147483647").cseq == 2**31 - 1


def test_header_values_keep_what_is_not_ascii() -> None:
    message = changed(b"X-Two: a", "X-Two: été".encode())
    assert message.get("X-Two") == "été"
    message = changed(b"X-Two: a", b"X-Two: \xff\xfe")
    assert (message.get("X-Two") or "").encode("utf-8", "surrogateescape") == b"\xff\xfe"


@pytest.mark.parametrize(
    ("old", "new", "status", "word"),
    [
        (b"INVITE sip:", b"INVITE  sip:", 400, ""),
        (b" SIP/2.0\r\nVia", b"  SIP/2.0\r\nVia", 400, ""),
        (b" SIP/2.0\r\nVia", b" SIP/2.0 \r\nVia", 400, ""),
        (b" SIP/2.0\r\nVia", b"\r\nVia", 400, ""),
        (b" SIP/2.0\r\nVia", b" SIP/7.0\r\nVia", 505, "Version"),
        (b" SIP/2.0\r\nVia", b" HTTP/1.1\r\nVia", 400, ""),
        (b"INVITE sip:", b"INV(ITE sip:", 400, ""),
        (b"sip:+33155", b"sip:+33 155", 400, ""),
        (b"sip:+33155;x=y@far.example:5070;user=phone", b"<sip:x@far.example>", 400, "URI"),
        (b"CSeq: 314159", b"CSeq: 99999999999", 400, "CSeq"),
        (b"CSeq: 314159", b"CSeq: 36893488147419103232", 400, "CSeq"),
        (b"CSeq: 314159", b"CSeq: -1", 400, "CSeq"),
        (b"CSeq: 314159 INVITE", b"CSeq: INVITE", 400, "CSeq"),
        (b"CSeq: 314159 INVITE", b"CSeq: 314159", 400, "CSeq"),
        (b"CSeq: 314159 INVITE", b"CSeq: 314159 BYE", 400, "CSeq"),
        (b"CSeq: 314159 INVITE", b"CSeq: 314159 invite", 400, "CSeq"),
        (b"CSeq: 314159 INVITE\r\n", b"", 400, "CSeq"),
        (b"Call-ID: a84b4c76e66710@pc33.example\r\n", b"", 400, "Call-ID"),
        (b"Call-ID: a84b4c76e66710@pc33.example\r\n", b"Call-ID:\r\n", 400, "Call-ID"),
        (b"To: <sip:+33155@far.example;tag=no-tag>;y=2\r\n", b"", 400, "To"),
        (b"To: <sip:+33155@far", b'To: "open <sip:+33155@far', 400, "To"),
        (b"Max-Forwards: 70", b"Max-Forwards: 7x", 400, "Max-Forwards"),
        (b"Content-Length: 3", b"Content-Length: -3", 400, "Content-Length"),
        (b"Content-Length: 3", b"Content-Length: 9999", 400, "Content-Length"),
        (b"Content-Length: 3", b"Content-Length: 3x", 400, "Content-Length"),
        (b"Content-Length: 3", b"Content-Length: 99999999999999999999993", 400, "Content-Length"),
        (b"Content-Length: 3", b"l: 31\r\nContent-Length: 3", 400, "Content-Length"),
        (b"Via: SIP/2.0/UDP 192.0.2.1:5090;branch", b"Via: SIP/2.0/UDP 192.0.2.1:5090;;,branch", 400, "Via"),
        (b"Via: SIP/2.0/UDP 192.0.2.1:5090;", b"Via: SIP/2.0/UDP 192.0.2.1:509000;", 400, "Via"),
        (b"X-One: 1", b"X-One 1", 400, ""),
        (b"X-One: 1", b": 1", 400, ""),
    ],
)
def test_faults_have_a_status_and_name_what_is_wrong(old: bytes, new: bytes, status: int, word: str) -> None:
    assert old in INVITE
    error = fault(INVITE.replace(old, new, 1))
    assert error.status == status
    assert word.lower() in error.reason.lower()
    assert 0 <= error.offset <= len(INVITE) + len(new)
    assert isinstance(error, ValueError)


@pytest.mark.parametrize("code", [b"99", b"20", b"1000", b"4294967301", b"0", b"700", b"2x0", b"-200", b""])
def test_a_bad_status_code_is_a_fault(code: bytes) -> None:
    fault(RINGING.replace(b" 180 ", b" " + code + b" ", 1))


def test_every_prefix_parses_or_fails_cleanly() -> None:
    for data in (INVITE, RINGING):
        for end in range(len(data)):
            try:
                message = Message(data[:end])
            except ParseError as error:
                assert 0 <= error.offset <= end
                assert 400 <= error.status <= 699
            else:
                assert data.startswith(message.data)


def test_every_suffix_parses_or_fails_cleanly() -> None:
    for data in (INVITE, RINGING):
        for start in range(len(data)):
            try:
                message = Message(data[start:])
            except ParseError as error:
                assert 0 <= error.offset <= len(data) - start
            else:
                assert message.method


@pytest.mark.parametrize("octet", [0, 9, 10, 13, 32, 34, 44, 58, 59, 60, 62, 92, 127, 128, 255])
def test_any_octet_changed_parses_or_fails_cleanly(octet: int) -> None:
    for position in range(len(INVITE)):
        data = INVITE[:position] + bytes([octet]) + INVITE[position + 1 :]
        try:
            message = Message(data)
        except ParseError as error:
            assert 0 <= error.offset <= len(data)
        else:
            assert data.lstrip(b"\r\n").startswith(message.data)
            assert [message.get(name) for name, _ in message.headers]


def test_nothing_at_all() -> None:
    for data in (b"", b"\r\n", b"\r\n\r\n", b"\0", b" ", b"\n"):
        fault(data)
