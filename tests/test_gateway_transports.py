# SPDX-License-Identifier: Apache-2.0
"""A gateway process that listens on every transport: calls cross them, certificates change during a call."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from certificates import client_context, server_context, write_authority, write_certificate
from plain_sip import Address, Packet, Request, response
from processes import Gateway, Place, until
from stream_parties import Datagrams, Listening, Party, Stream, Web
from wire import callee_route_set, route_set

NAME = "gw.example.net"
PORTS = {"udp": 5060, "tcp": 5060, "tls": 5061, "ws": 5080, "wss": 5443}
_numbers = itertools.count(1)


class Platform:
    """The gateway, a carrier that calls over any transport, one server."""

    def __init__(self, place: Place, gateway: Gateway) -> None:
        self.place, self.gateway = place, gateway
        self.open = contextlib.AsyncExitStack()

    def address(self, transport: str) -> Address:
        return self.place.gateway()[0], PORTS[transport]

    async def party(self, transport: str) -> Party:
        """The carrier's user agent, connected."""
        if transport == "udp":
            return await self._datagrams(self.place.carrier())
        return await (self._web(transport) if transport in ("ws", "wss") else self.stream(transport))

    async def _datagrams(self, address: Address) -> Datagrams:
        party = Datagrams(address)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: party, local_addr=address)
        self.open.callback(transport.close)
        return party

    async def stream(self, transport: str) -> Stream:
        tls = {"ssl": client_context(), "server_hostname": NAME} if transport == "tls" else {}
        local = (self.place.carrier()[0], 0)
        ends = await asyncio.open_connection(*self.address(transport), local_addr=local, **tls)
        stream = Stream(*ends)
        self.open.callback(stream.close)
        return stream

    async def _web(self, transport: str) -> Web:
        host, port = self.address(transport)
        connector = aiohttp.TCPConnector(local_addr=(self.place.carrier()[0], 0))
        session = await self.open.enter_async_context(aiohttp.ClientSession(connector=connector))
        scheme = "https" if transport == "wss" else "http"
        tls = {"ssl": client_context(), "server_hostname": NAME} if transport == "wss" else {}
        socket = await session.ws_connect(f"{scheme}://{host}:{port}/", protocols=["sip"], **tls)  # type: ignore[arg-type]
        connection = socket.get_extra_info("sockname")
        return Web(connection[:2], socket)

    async def server(self, transport: str) -> Party:
        address = self.place.server()
        if transport == "udp":
            return await self._datagrams(address)
        certificate = write_certificate(self.place.directory, "server", address[0])
        server = Listening(address, server_context(certificate) if transport == "tls" else None)
        await server.listen()
        self.open.callback(server.close)
        return server

    def send(self, party: Party, request: Request) -> None:
        if isinstance(party, Datagrams):
            party.send(bytes(request), self.address("udp"))
        else:
            assert isinstance(party, Stream | Web)
            party.send(request)


def contact(party: Party, transport: str) -> str:
    parameter = {"udp": "", "wss": ";transport=ws"}.get(transport, f";transport={transport}")
    return f"<sip:me@{party}{parameter}>"


def via(party: Party, transport: str) -> list[str]:
    sent_by = "phone.invalid" if transport in ("ws", "wss") else str(party)
    return [f"SIP/2.0/{transport.upper()} {sent_by};branch=z9hG4bK-{next(_numbers)}"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    it = Place(tmp_path)
    yield it
    it.close()


@contextlib.asynccontextmanager
async def platform_to(place: Place, transport: str) -> AsyncIterator[Platform]:
    """The gateway, whose server is reached over *transport*."""
    host, port = place.server()
    parameter = "" if transport == "udp" else f";transport={transport}"
    place.write(servers=[{"uri": f"sip:{host}:{port}{parameter}"}], carriers=1)
    gateway = place.gateway()[0]
    listen = ", ".join(f'"{name}:{gateway}:{number}"' for name, number in PORTS.items())
    write_certificate(place.directory, "gw", NAME)
    write_authority(place.directory)
    text = place.config.read_text().replace(f'"udp:{gateway}:5060"', listen)
    tls = '[tls]\ncertificate = "gw.pem"\nkey = "gw.key"\nserver_ca = "platform-ca.pem"\n'
    place.config.write_text(text + tls)
    platform = Platform(place, place.new_gateway())
    async with platform.open:
        platform.gateway.launch()
        await until(lambda: platform.gateway.ready, "the gateway")
        yield platform


async def call(platform: Platform, here: str, there: str, party: Party, server: Party) -> tuple[Packet, Packet]:
    """Set up a call; the 200 as the caller got it, the INVITE as the server did."""
    uri = f"sip:0155@{platform.address('udp')[0]}"
    headers = [("Contact", contact(party, here))]
    invite = Request("INVITE", uri, via(party, here), to=f"<{uri}>", call_id=f"{next(_numbers)}@test", headers=headers)
    platform.send(party, invite)
    leg = await server.gets("INVITE")
    reply(platform, server, leg, 200, contact(server, there))
    ok = await party.gets(200)
    routes = route_set(ok)
    target = ok.get("Contact").strip("<>")
    ack = Request("ACK", target, via(party, here), ok.get("From"), ok.get("To"), ok.call_id, headers=routes)
    platform.send(party, ack)
    await server.gets("ACK")
    return ok, leg


def reply(platform: Platform, server: Party, request: Packet, status: int, where: str = "") -> None:
    headers = [("Contact", where)] if where else []
    answer = response(request, status, headers=headers)
    if isinstance(server, Listening):
        server.over(request).send(answer)
    elif isinstance(server, Datagrams):
        server.send(answer, platform.address("udp"))
    else:
        assert isinstance(server, Stream | Web)
        server.send(answer)


CROSSINGS = [
    ("udp", "tls"), ("tls", "udp"), ("tls", "tls"), ("ws", "tls"), ("wss", "tls"), ("ws", "udp"), ("wss", "udp"),
    ("wss", "tcp"), ("tcp", "tls"),
]  # fmt: skip


@pytest.mark.parametrize(("here", "there"), CROSSINGS)
async def test_a_call_across_transports(place: Place, here: str, there: str) -> None:
    """RFC 5658 and RFC 7118: set up by one side, ended by the other."""
    async with platform_to(place, there) as platform:
        server, party = await platform.server(there), await platform.party(here)
        ok, leg = await call(platform, here, there, party, server)
        assert leg.via.startswith(f"SIP/2.0/{there.upper()} ")
        target = leg.get("Contact").strip("<>")
        bye = Request(
            "BYE",
            target,
            via(server, there),
            ok.get("To"),
            ok.get("From"),
            ok.call_id,
            7,
            headers=callee_route_set(leg),
        )
        if isinstance(server, Listening):
            server.over(leg).send(bye)
        else:
            platform.send(server, bye)
        reply(platform, party, await party.gets("BYE"), 200)
        assert (await server.gets(200)).method == "BYE"
        if isinstance(party, Web):
            assert set(party.kinds) == {aiohttp.WSMsgType.TEXT}


@pytest.mark.parametrize("how", ["file", "reload"])
async def test_a_certificate_is_renewed_during_a_call(place: Place, how: str) -> None:
    """New connections get the new one; the call goes on over the old connection."""
    async with platform_to(place, "tls") as platform:
        server, party = await platform.server("tls"), await platform.stream("tls")
        ok, _ = await call(platform, "tls", "tls", party, server)
        write_certificate(place.directory, "gw", NAME, "renewed.example.net")
        if how == "reload":
            platform.gateway.signal(signal.SIGHUP)

        async def shown() -> set[str]:
            _, writer = await asyncio.open_connection(
                *platform.address("tls"), ssl=client_context(), server_hostname=NAME
            )
            names = {name for _, name in writer.get_extra_info("ssl_object").getpeercert()["subjectAltName"]}
            writer.close()
            return names

        async with asyncio.timeout(30):
            while "renewed.example.net" not in await shown():
                await asyncio.sleep(0.1)
        target = ok.get("Contact").strip("<>")
        ends = (ok.get("From"), ok.get("To"), ok.call_id, 3)
        platform.send(party, Request("BYE", target, via(party, "tls"), *ends, headers=route_set(ok)))
        reply(platform, server, await server.gets("BYE"), 200)
        assert (await party.gets(200)).method == "BYE"


async def test_a_reload_with_a_broken_certificate_is_refused_as_a_whole(place: Place) -> None:
    async with platform_to(place, "udp") as platform:
        (place.directory / "gw.key").write_text("no key")
        platform.gateway.signal(signal.SIGHUP)
        assert platform.gateway.child is not None
        errors = platform.gateway.child.errors
        await until(lambda: "not reloaded: " in errors.read_text(), "the refusal")
        assert "tls.certificate" in errors.read_text()
        party = await platform.stream("tls")
        uri = f"sip:{platform.address('udp')[0]}"
        party.send(Request("OPTIONS", uri, via(party, "tls"), to=f"<{uri}>", call_id="after@test"))
        await party.gets(200)


async def test_the_health_of_a_server_reached_over_tls_is_probed_over_it(place: Place) -> None:
    async with platform_to(place, "tls") as platform:
        server = await platform.server("tls")
        assert isinstance(server, Listening)
        await until(lambda: server.connections, "the connection of the probe")
        await until(lambda: platform.gateway.platform()["destinations"][1]["state"] == "up", "the server to be up")
