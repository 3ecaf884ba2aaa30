# SPDX-License-Identifier: Apache-2.0
"""Framing of streams: whatever the pieces that octets come in, the same messages leave, or the same fault is found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ubisip.transport.framing import MESSAGE, Fault, Framer, FramingError

START = b"OPTIONS sip:a@b SIP/2.0\r\n"
OPTIONS = START + b"Call-ID: 1\r\nContent-Length: 0\r\n\r\n"
RESPONSE = b"SIP/2.0 200 OK\r\nl:5\r\nVia: x\r\n\r\nhello"


def read(pieces: Iterable[bytes]) -> tuple[list[bytes], Fault | None, int]:
    """Messages, the fault that ended them if any, and pings."""
    framer, messages = Framer(), []
    for piece in pieces:
        framer.feed(piece)
        try:
            while (message := framer.take()) is not None:
                messages.append(message)
        except FramingError as error:
            return messages, error.fault, framer.pings
    return messages, None, framer.pings


def octet_by_octet(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def with_length(value: bytes, body: bytes = b"") -> bytes:
    return START + b"Content-Length" + value + b"\r\nSubject: l: 9\r\n\r\n" + body


GOOD = [
    OPTIONS,
    RESPONSE,
    with_length(b": 3", b"a\r\n"),
    with_length(b":3", b"\r\n\r"),
    with_length(b" \t :  4 \t", b"\r\n\r\n"),
    with_length(b":\r\n 2", b"xy"),
    with_length(b":\r\n \r\n\t2\r\n ", b"xy"),
    with_length(b": 00000000000000000000000000000000000000005", b"INVIT"),
    with_length(b": 0\r\nl: 0"),
    START + b"L : 7\r\n\r\nINVITE ",
    START + b"Subject: a\r\n Content-Length: 9\r\nCONTENT-LENGTH: 1\r\n\r\n\n",
    START + b"Contact: x;l:5\r\nxl: 6\r\nl: 2\r\n\r\nl:",
]
BAD = [
    (START + b"Subject: none\r\n\r\n", Fault.NO_LENGTH),
    (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault.NO_LENGTH),
    (START + b"Subject: a\r\n Content-Length: 9\r\n\r\n", Fault.NO_LENGTH),
    (with_length(b": "), Fault.BAD_LENGTH),
    (with_length(b": -1"), Fault.BAD_LENGTH),
    (with_length(b": +1"), Fault.BAD_LENGTH),
    (with_length(b": 1 1"), Fault.BAD_LENGTH),
    (with_length(b": 0x1"), Fault.BAD_LENGTH),
    (with_length(b": 1_0"), Fault.BAD_LENGTH),
    (with_length(": ٣".encode()), Fault.BAD_LENGTH),
    (with_length(b": 1, 1"), Fault.BAD_LENGTH),
    (with_length(b": 1\r\nl: 2"), Fault.BAD_LENGTH),
    (with_length(b": %d" % MESSAGE), Fault.TOO_LARGE),
    (with_length(b": " + b"9" * 5_000), Fault.TOO_LARGE),
    (b"\x16\x03\x01", Fault.START),
    (b"\r\r\n", Fault.START),
    (b"\n\r\n", Fault.START),
    (b" OPTIONS", Fault.START),
]


@pytest.mark.parametrize("message", GOOD)
@pytest.mark.parametrize("pieces", [lambda data: [data], octet_by_octet])
def test_a_message_ends_where_its_content_length_says(message: bytes, pieces: object) -> None:
    assert callable(pieces)
    assert read(pieces(message)) == ([message], None, 0)
    assert read(pieces(message + OPTIONS + message[:-1])) == ([message, OPTIONS], None, 0)


@pytest.mark.parametrize(("stream", "fault"), BAD)
@pytest.mark.parametrize("pieces", [lambda data: [data], octet_by_octet])
def test_a_stream_that_is_out_of_step_is_told(stream: bytes, fault: Fault, pieces: object) -> None:
    assert callable(pieces)
    assert read(pieces(stream)) == ([], fault, 0)
    assert read(pieces(OPTIONS + stream)) == ([OPTIONS], fault, 0)


def test_the_largest_message_passes_and_one_octet_more_does_not() -> None:
    room = MESSAGE - len(with_length(b": 65000"))
    message = with_length(b": %d" % room, bytes(room))
    assert len(message) == MESSAGE
    assert read([message]) == ([message], None, 0)
    assert read([with_length(b": %d" % (room + 1))])[1] is Fault.TOO_LARGE


def test_a_header_without_end_is_cut_off() -> None:
    header = START + b"Subject: " + b"a" * (MESSAGE - len(START) - 9)
    assert read([header]) == ([], None, 0)
    assert read([header, b"a"])[1] is Fault.TOO_LARGE
    assert read([header, b"a" * 1_000_000])[1] is Fault.TOO_LARGE


@pytest.mark.parametrize(
    ("stream", "pings"),
    [
        (b"\r\n", 0),
        (b"\r\n\r\n", 1),
        (b"\r\n\r\n\r\n", 1),
        (b"\r\n\r\n\r\n\r\n", 2),
        (b"\r\n\r\n\r", 1),
        (OPTIONS + b"\r\n\r\n", 1),
        (OPTIONS + b"\r\n" + OPTIONS + b"\r\n", 0),
        (b"\r\n\r\n" + OPTIONS + b"\r\n\r\n" + OPTIONS, 2),
    ],
)
def test_a_double_line_end_between_messages_is_a_ping(stream: bytes, pings: int) -> None:
    messages = [OPTIONS] * stream.count(OPTIONS)
    assert read([stream]) == (messages, None, pings)
    assert read(octet_by_octet(stream)) == (messages, None, pings)


def test_how_much_waits_is_told() -> None:
    framer = Framer()
    framer.feed(b"\r\n\r\n")
    assert framer.take() is None and len(framer) == 0
    framer.feed(OPTIONS + OPTIONS[:10])
    assert framer.take() == OPTIONS and len(framer) == 10
    assert framer.take() is None and len(framer) == 10


PARTS = st.sampled_from([*GOOD, b"\r\n", b"\r\n\r\n", *(stream for stream, _ in BAD[:12])])


@given(st.lists(PARTS, max_size=12).map(b"".join), st.lists(st.integers(0, 4_000), max_size=20))
def test_the_pieces_do_not_matter(stream: bytes, cuts: list[int]) -> None:
    at = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[start:end] for start, end in pairwise(at)]
    assert read(pieces) == read([stream]) == read(octet_by_octet(stream))


@given(st.lists(st.tuples(st.sampled_from([b"\r\n", b"\r\n\r\n", b""]), st.binary(max_size=200)), max_size=8))
def test_every_body_survives(messages: list[tuple[bytes, bytes]]) -> None:
    whole = [START + b"l: %d\r\n\r\n" % len(body) + body for _, body in messages]
    stream = b"".join(gap + message for (gap, _), message in zip(messages, whole, strict=True))
    assert read([stream])[:2] == (whole, None)


@given(st.binary(max_size=300))
def test_no_octets_break_it(stream: bytes) -> None:
    messages, _, _ = read(octet_by_octet(stream))
    assert read([stream])[0] == messages
    assert all(message in stream for message in messages)
