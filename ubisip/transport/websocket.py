# SPDX-License-Identifier: Apache-2.0
"""SIP over WebSocket, the server's side (RFC 7118): one SIP message a WebSocket message, octets in, octets out.

The protocol itself (RFC 6455) is the library's; here are the ``sip`` subprotocol, fragments put together, keep-alives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from websockets.exceptions import NegotiationError, PayloadTooBig
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from ubisip.transport.framing import MESSAGE, Fault, FramingError

SUBPROTOCOL = Subprotocol("sip")
PING = b"\r\n\r\n"
"""A keep-alive that a browser can send, as it has no access to ping frames (RFC 5626 section 4.4.1)."""
HANDSHAKE = 16 * 1024
"""Octets of the handshake request at most: cookies and the like are a few hundred."""
_MASK = 4


class WebSocketFramer:
    """The receiving side of one WebSocket connection, and how messages are written for it; see ``framing.Framer``.

    Requests that are no handshake, or one without the ``sip`` subprotocol, get their HTTP answer and are a fault.
    """

    __slots__ = ("_messages", "_octets", "_parts", "_text", "_ws", "pings")

    def __init__(self) -> None:
        self.pings = 0
        self._ws = ServerProtocol(subprotocols=[SUBPROTOCOL], select_subprotocol=_select, max_size=MESSAGE)
        self._messages: deque[bytes] | None = None
        self._parts: bytearray | None = None
        self._text = False
        self._octets = 0

    def __len__(self) -> int:
        """Octets that wait for the rest of their message, or to be taken."""
        return sum(map(len, self._messages or ())) + len(self._parts or b"") + self._octets

    @property
    def established(self) -> bool:
        """The handshake is done: messages may be sent."""
        return self._ws.state is State.OPEN

    @property
    def ended(self) -> bool:
        """Nothing more follows: the peer has said so, or was told."""
        return self._ws.state > State.OPEN

    def feed(self, data: bytes) -> None:
        """Take octets as they come."""
        self._octets += len(data)
        self._ws.receive_data(data)
        for event in self._ws.events_received():
            if isinstance(event, Request):
                self._octets = 0
                self._ws.send_response(self._ws.accept(event))
            elif isinstance(event, Frame):
                self._octets = max(0, self._octets - _wire_size(event))
                self._take_frame(event)

    def take(self) -> bytes | None:
        """The next whole message, None when more octets are needed.

        :raises FramingError: no message can follow; what :meth:`answer` gives is to be sent, then the stream closed.
        """
        if self._ws.handshake_exc is not None:
            raise FramingError(Fault.HANDSHAKE)
        if self._messages:
            message = self._messages.popleft()
            if not self._messages:
                self._messages = None
            return message
        if isinstance(self._ws.parser_exc, PayloadTooBig):
            raise FramingError(Fault.TOO_LARGE)
        if self._ws.parser_exc is not None or (self._ws.close_sent is not None and self._ws.close_rcvd is None):
            raise FramingError(Fault.WEBSOCKET)
        if self._ws.state is State.CONNECTING and self._octets > HANDSHAKE:
            raise FramingError(Fault.HANDSHAKE)
        return None

    def frame(self, message: bytes) -> bytes:
        """*message* as it is written: text where it is UTF-8, as browsers expect it, else binary."""
        if self._ws.state is not State.OPEN:
            return b""
        (self._ws.send_text if _is_text(message) else self._ws.send_binary)(message)
        return self.answer()

    def answer(self) -> bytes:
        """What must be sent by now: the answer to the handshake, pongs, a close."""
        return b"".join(self._ws.data_to_send())

    def close(self) -> bytes:
        """Tell the peer that we go (1001)."""
        if self._ws.state is not State.OPEN:
            return b""
        self._ws.send_close(CloseCode.GOING_AWAY)
        return self.answer()

    def _take_frame(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._parts, self._text = bytearray(), frame.opcode is Opcode.TEXT
        elif frame.opcode is not Opcode.CONT:
            return  # the library has answered it
        assert self._parts is not None
        self._parts += frame.data
        if frame.fin:
            message, self._parts = bytes(self._parts), None
            self._take_message(message)

    def _take_message(self, message: bytes) -> None:
        if message == PING:
            self.pings += 1
        elif self._text and not _is_text(message):
            self._ws.fail(CloseCode.INVALID_DATA)
        elif message.strip(b"\r\n"):
            self._messages = self._messages or deque()
            self._messages.append(message)


def _select(_: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol:
    """RFC 7118 section 4.1: without ``sip`` the handshake is refused.

    :raises NegotiationError: the client does not offer it.
    """
    if SUBPROTOCOL not in offered:
        raise NegotiationError("the subprotocol sip is required")
    return SUBPROTOCOL


def _is_text(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _wire_size(frame: Frame) -> int:
    """Octets of a client's frame: header, mask and payload (RFC 6455 section 5.2)."""
    size = len(frame.data)
    return size + _MASK + (2 if size < 126 else 4 if size < 65_536 else 10)
