# SPDX-License-Identifier: Apache-2.0
"""A gateway beside an aiosip application, in one process and one event loop.

The application is a click-to-call service on a telephony server: it rings a number by aiosip, the call goes through the
gateway to the carrier, and the gateway tells what becomes of it.

    pip install aiosip==0.2.0
    ubisip key examples/cluster.key
    python examples/beside_aiosip.py examples/platform.toml pa2-gw1 127.0.2.21:5060 0123456789
"""

import asyncio
import collections
import collections.abc
import sys
import types
from typing import Any

import ubisip

# aiosip 0.2.0 (2017) needs two names that Python took away in 3.10 and 3.11.
asyncio.coroutine = types.coroutine  # type: ignore[attr-defined]
collections.MutableMapping = collections.abc.MutableMapping  # type: ignore[attr-defined]

import aiosip  # type: ignore[import-untyped]  # noqa: E402
from multidict import CIMultiDict  # noqa: E402


class Call:
    """A call that the application places from *own* (host, port), a server's address in the configuration."""

    def __init__(self, app: Any, own: tuple[str, int], gateway: tuple[str, int]) -> None:
        self._app, self._own, self._gateway = app, own, gateway
        self._dialog: Any = None
        self._answer: Any = None

    async def ring(self, number: str) -> int:
        """Call *number*; returns the status of the final response. A 2xx is acknowledged."""
        host, port = self._own
        self._dialog = await self._app.start_dialog(
            from_uri=f"sip:click-to-call@{host}:{port}",
            to_uri=f"sip:{number}@{self._gateway[0]}:{self._gateway[1]}",
            local_addr=self._own,
            remote_addr=self._gateway,
        )
        self._answer = await self._dialog.invite()
        if self._answer.status_code < 300:
            self._send("ACK")
        return int(self._answer.status_code)

    async def hang_up(self) -> int:
        """End the call; returns the status of the response."""
        self._dialog.cseqs["BYE"] = self._dialog.cseqs["INVITE"]  # aiosip counts CSeq by method, SIP by dialog
        return int((await self._send("BYE")).status_code)

    def _send(self, method: str) -> Any:
        """A request within the dialog; aiosip has no route sets (RFC 3261 section 12.1.2), so it is given one."""
        routes = self._answer.headers["Record-Route"]
        headers = CIMultiDict({"To": self._answer.headers["To"]})
        headers["Route"] = routes[::-1] if isinstance(routes, list) else routes
        target = aiosip.contact.Contact.from_header(self._answer.headers["Contact"])
        return self._dialog.send_message(method, to_details=target, headers=headers)


async def main(path: str, node: str, own: str, number: str) -> None:
    config = ubisip.Config.load(path)
    async with ubisip.Gateway(config, node=node) as gateway:
        events = gateway.events()
        listener = gateway.listeners[0]
        host, _, port = own.rpartition(":")
        call = Call(aiosip.Application(), (host, int(port)), (listener.host, listener.port))
        status = await call.ring(number)
        print(f"aiosip: {number} answered {status}", flush=True)
        if status < 300:
            print(f"aiosip: hung up, {await call.hang_up()}", flush=True)
        async for event in events:
            if isinstance(event, ubisip.CallEvent):
                print(f"gateway: {type(event).__name__} {event.destination}", flush=True)
            if isinstance(event, ubisip.Ended | ubisip.Failed):
                break


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:5]))
