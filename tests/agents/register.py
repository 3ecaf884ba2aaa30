# SPDX-License-Identifier: Apache-2.0
"""A phone that only registers: over UDP, with digest authentication, one request at a time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from secrets import token_hex

from ubisip.core.message import Message
from ubisip.lab.digest import answer

REALM = "ubisip.test"
PATIENCE = 10.0
"""Seconds for an answer; the request is repeated meanwhile."""


class Phone:
    """User agent *user* that registers with the gateway at *address*."""

    def __init__(self, address: tuple[str, int], user: str) -> None:
        self._address = address
        self._user = user
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.9.200", 0))
        self._socket.setblocking(False)
        self._call_id = token_hex(8)
        self._cseq = 0
        self.last: Message | None = None
        """The last answer."""

    def close(self) -> None:
        self._socket.close()

    async def register(self, password: str, *, expires: int = 600) -> int:
        """The status of the answer to a REGISTER whose challenge was answered with *password*."""
        response = await self._ask(expires)
        if response.status == 401:
            challenges = response.get_all("WWW-Authenticate")
            credentials = answer(challenges, self._user, password, "REGISTER", f"sip:{REALM}")
            response = await self._ask(expires, [f"Authorization: {credentials}"])
        self.last = response
        return int(response.status)

    async def refuse(self) -> None:
        """Answer every request that comes, an INVITE with 486, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            data, source = await loop.sock_recvfrom(self._socket, 65_536)
            message = Message(data)
            if not message.is_request or message.method == "ACK":
                continue
            status = "486 Busy Here" if message.method == "INVITE" else "200 OK"
            names = ("Via", "From", "Call-ID", "CSeq")
            lines = [f"{name}: {value}" for name in names for value in message.get_all(name)]
            to = f"To: {message.get('To')};tag=phone"
            text = "\r\n".join([f"SIP/2.0 {status}", *lines, to, "Content-Length: 0", "", ""])
            await loop.sock_sendto(self._socket, text.encode(), source)

    async def _ask(self, expires: int, headers: Sequence[str] = ()) -> Message:
        """The final answer to one REGISTER."""
        self._cseq += 1
        host, port = self._socket.getsockname()
        contact = f"<sip:{self._user}@{host}:{port}>;expires={expires}"
        aor = f"<sip:{self._user}@{REALM}>"
        lines = [
            f"REGISTER sip:{REALM} SIP/2.0",
            f"Via: SIP/2.0/UDP {host}:{port};rport;branch=z9hG4bK{token_hex(8)}",
            f"From: {aor};tag={token_hex(4)}",
            f"To: {aor}",
            f"Call-ID: {self._call_id}",
            f"CSeq: {self._cseq} REGISTER",
            f'Contact: {contact};reg-id=1;+sip.instance="<urn:uuid:{self._user}>"',
            "Max-Forwards: 70",
            "Supported: path, outbound",
            *headers,
            "Content-Length: 0",
        ]
        data = "\r\n".join([*lines, "", ""]).encode()
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE):
            while True:
                await loop.sock_sendto(self._socket, data, self._address)
                try:
                    async with asyncio.timeout(0.5):
                        while (message := Message(await loop.sock_recv(self._socket, 65_536))).status < 200:
                            pass
                    return message
                except TimeoutError:
                    continue
