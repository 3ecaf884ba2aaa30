# SPDX-License-Identifier: Apache-2.0
"""A carrier or a server as a plain UDP socket in the test's loop: it answers OPTIONS, the test does the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

from ubisip.core.message import Message

_numbers = count(1)


class SipPeer(asyncio.DatagramProtocol):
    """Bound to *address*; what it hears, except OPTIONS, waits in order."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.host, self.port = address
        self.heard: asyncio.Queue[Message] = asyncio.Queue()
        self.from_whom: tuple[str, int] = ("", 0)
        self._transport: Any = None

    async def __aenter__(self) -> SipPeer:
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, local_addr=(self.host, self.port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        message = Message(data)
        self.from_whom = addr
        if message.is_request and message.method == "OPTIONS":
            self.reply(message, 200)
        else:
            self.heard.put_nowait(message)

    def send(self, data: bytes, to: tuple[str, int]) -> None:
        self._transport.sendto(data, to)

    async def hears(self, wanted: Callable[[Message], bool]) -> Message:
        """The next message that is *wanted*; those before it are dropped."""
        async with asyncio.timeout(10):
            while not wanted(message := await self.heard.get()):
                pass
        return message

    async def request(self, method: str) -> Message:
        return await self.hears(lambda it: it.is_request and it.method == method)

    async def status(self, status: int) -> Message:
        return await self.hears(lambda it: it.status == status)

    def reply(self, request: Message, status: int) -> None:
        """Answer *request* along its Vias, with a Contact and the Record-Route set."""
        kept = [("Via", via) for via in request.get_all("via")]
        kept += [("Record-Route", route) for route in request.get_all("record-route")]
        tag = "" if request.to_tag or status == 100 else ";tag=callee"
        kept += [("From", request.get("from") or ""), ("To", (request.get("to") or "") + tag)]
        kept += [("Call-ID", request.call_id), ("CSeq", request.get("cseq") or "")]
        kept += [("Contact", f"<sip:{self.host}:{self.port}>"), ("Content-Length", "0")]
        lines = [f"SIP/2.0 {status} Whatever", *(f"{name}: {value}" for name, value in kept), "", ""]
        self.send("\r\n".join(lines).encode(), self.from_whom)

    def invite(self, to: tuple[str, int], *, caller: str = "0612345678", called: str = "0123456789") -> str:
        """Send a new INVITE; returns its Call-ID."""
        call_id = f"call-{next(_numbers)}@{self.host}"
        self._send_request("INVITE", f"sip:{called}@{to[0]}:{to[1]}", to, call_id, caller, called)
        return call_id

    def in_dialog(self, method: str, answer: Message, to: tuple[str, int], cseq: int = 1) -> None:
        """Send *method* within the call that *answer*, a 2xx to our INVITE, has set up."""
        routes = [("Route", route) for route in reversed(answer.get_all("record-route"))]
        target = (answer.get("contact") or "").strip("<>")
        rest = [
            *routes,
            ("From", answer.get("from") or ""),
            ("To", answer.get("to") or ""),
            ("Call-ID", answer.call_id),
        ]
        self._write(method, target, to, rest, cseq)

    def _send_request(self, method: str, uri: str, to: tuple[str, int], call_id: str, caller: str, called: str) -> None:
        rest = [
            ("From", f"<sip:{caller}@{self.host}>;tag=caller"),
            ("To", f"<sip:{called}@{to[0]}>"),
            ("Call-ID", call_id),
        ]
        self._write(method, uri, to, rest, 1)

    def _write(self, method: str, uri: str, to: tuple[str, int], rest: list[tuple[str, str]], cseq: int) -> None:
        lines = [f"{method} {uri} SIP/2.0"]
        lines.append(f"Via: SIP/2.0/UDP {self.host}:{self.port};branch=z9hG4bKpeer{next(_numbers)}")
        lines += [f"{name}: {value}" for name, value in rest]
        lines += [f"CSeq: {cseq} {method}", f"Contact: <sip:{self.host}:{self.port}>", "Max-Forwards: 70"]
        self.send("\r\n".join([*lines, "Content-Length: 0", "", ""]).encode(), to)
