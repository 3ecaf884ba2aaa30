# SPDX-License-Identifier: Apache-2.0
"""Where each message of a stream ends: Content-Length (RFC 3261 section 18.3) and keep-alives (RFC 5626 section 4.4.1).

    SIP-message = start-line *message-header CRLF [ message-body ]

Whatever the transport: octets in, whole messages out; no I/O and no clock.
"""

from __future__ import annotations

import enum
import re

MESSAGE = 65_535
"""Octets of one message at most, header and body: as by UDP, so that the core answers 513 to what it cannot forward. An
attacker holds no more of our memory by one connection than this and one read; who sends more is cut off."""

_CRLF = b"\r\n"
_END = b"\r\n\r\n"
_FOLD = re.compile(rb"\r\n[ \t]+")
_LENGTH = re.compile(rb"\r\n(?:content-length|l)[ \t]*:([^\r\n]*)", re.IGNORECASE)
_TOKEN = re.compile(rb"[A-Za-z0-9.!%*_+`'~-]")
"""What a start line begins with: a method or ``SIP`` (section 25.1)."""


class Fault(enum.Enum):
    """Why a stream cannot be read on: nobody knows where the next message begins."""

    START = "no_start_line"
    NO_LENGTH = "no_content_length"
    BAD_LENGTH = "bad_content_length"
    TOO_LARGE = "too_large"
    HANDSHAKE = "handshake"
    WEBSOCKET = "websocket"


class FramingError(ValueError):
    """A stream breaks the rules of framing; ``fault`` says which."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


class Framer:
    """The receiving side of one stream: feed it octets, take whole messages until there is none.

    ``pings`` counts double CRLFs between messages, each of which wants one CRLF back; the reader takes and resets it.
    """

    __slots__ = ("_buffer", "_half_ping", "_searched", "_size", "pings")

    established = True
    """Messages may be sent."""
    ended = False
    """Only the transport tells the end of the stream."""

    def __init__(self) -> None:
        self.pings = 0
        self._buffer = bytearray()
        self._searched = 0
        self._size = 0
        self._half_ping = False

    def __len__(self) -> int:
        """Octets that wait for the rest of their message, or to be taken."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take octets as they come."""
        self._buffer += data

    def take(self) -> bytes | None:
        """The next whole message, None when more octets are needed.

        :raises FramingError: no message can follow; the stream must be closed.
        """
        if not self._size and not self._measure():
            return None
        if len(self._buffer) < self._size:
            return None
        message = bytes(memoryview(self._buffer)[: self._size])
        self._drop(self._size)
        self._half_ping = False
        return message

    def frame(self, message: bytes) -> bytes:
        """*message* as it is written: as it is."""
        return message

    def answer(self) -> bytes:
        """What must be sent by now, keep-alives aside: nothing."""
        return b""

    def close(self) -> bytes:
        """What tells the peer that we go: nothing."""
        return b""

    def _measure(self) -> bool:
        """Find the size of the message that begins here; False: its header is not there yet."""
        self._skip_line_ends()
        if self._buffer and not _TOKEN.match(self._buffer) and self._buffer != b"\r":
            raise FramingError(Fault.START)
        end = self._buffer.find(_END, max(0, self._searched - len(_END) + 1))
        self._searched = len(self._buffer)
        if end < 0:
            if self._searched > MESSAGE:
                raise FramingError(Fault.TOO_LARGE)
            return False
        size = end + len(_END) + content_length(bytes(memoryview(self._buffer)[: end + len(_CRLF)]))
        if size > MESSAGE:
            raise FramingError(Fault.TOO_LARGE)
        self._size = size
        return True

    def _skip_line_ends(self) -> None:
        """CRLFs before a start line mean nothing (RFC 3261 section 7.5), but two of them ask whether we are there."""
        end = 0
        while self._buffer.startswith(_CRLF, end):
            end += len(_CRLF)
            self.pings += self._half_ping
            self._half_ping = not self._half_ping
        if end:
            self._drop(end)

    def _drop(self, size: int) -> None:
        del self._buffer[:size]
        self._searched = self._size = 0


def content_length(header: bytes) -> int:
    """The Content-Length that *header* states: start line and header lines, each with its CRLF.

    :raises FramingError: there is none, it is no number, or there are several that differ.
    """
    lines = {value.strip(b" \t") for value in _LENGTH.findall(_unfolded(header))}
    if not lines:
        raise FramingError(Fault.NO_LENGTH)
    value = lines.pop()
    if lines or not value.isdigit():
        raise FramingError(Fault.BAD_LENGTH)
    significant = value.lstrip(b"0")
    if len(significant) > len(str(MESSAGE)):
        raise FramingError(Fault.TOO_LARGE)
    return int(significant or b"0")


def _unfolded(header: bytes) -> bytes:
    """Long header fields on one line (section 7.3.1); few messages have any."""
    if b"\r\n " in header or b"\r\n\t" in header:
        return _FOLD.sub(b" ", header)
    return header
