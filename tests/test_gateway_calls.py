# SPDX-License-Identifier: Apache-2.0
"""Calls through a gateway in this process: hooks, events, switches and deaths, with the real core and real sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from fake_worker import until, write_platform
from sip_peer import SipPeer

from ubisip import Answered, Config, Ended, Failed, FailedOver, Gateway, HealthChanged, NewCall, Ringing, SetUp
from ubisip.proxy import gateway as gateway_module
from ubisip.proxy.events import CallEvent, GatewayEvent, Subscription


class Stage:
    """A carrier and a server at each site, as the platform of ``fake_worker`` names them."""

    def __init__(self, carrier: SipPeer, servers: dict[str, SipPeer], path: Path, port: int) -> None:
        self.carrier, self.servers, self.path = carrier, servers, path
        self.gateway_at = ("127.0.9.11", port)
        self.sets_up: list[str] = []

    def gateway(self, **more: Any) -> Gateway:
        return Gateway(Config.load(self.path), node="pa2-gw1", **more)

    def invite(self, **who: str) -> str:
        return self.carrier.invite(self.gateway_at, **who)

    async def reached(self) -> tuple[str, SipPeer, Any]:
        """The server that the next INVITE reaches."""
        waiting = {asyncio.ensure_future(peer.request("INVITE")): name for name, peer in self.servers.items()}
        done, late = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in late:
            task.cancel()
        first = done.pop()
        name = waiting[first]
        return name, self.servers[name], first.result()


@pytest.fixture
async def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setattr(gateway_module, "SETTLE", 0.0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.9.11", 0))
        port = free.getsockname()[1]
    async with AsyncExitStack() as peers:
        carrier = await peers.enter_async_context(SipPeer(("127.0.9.1", 5060)))
        tel1 = await peers.enter_async_context(SipPeer(("127.0.9.21", 5071)))
        tel2 = await peers.enter_async_context(SipPeer(("127.0.9.51", 5071)))
        yield Stage(carrier, {"pa2-tel1": tel1, "pa5-tel1": tel2}, write_platform(tmp_path, port=port), port)


async def healthy(gateway: Gateway) -> None:
    await until(lambda: all(row["state"] == "up" for row in gateway.status()["destinations"]))


class Chosen:
    """A hook that sends each call where the number it calls says."""

    def choose(self, call: NewCall) -> str | None:
        return {"1": "pa2-tel1", "5": "pa5-tel1"}.get(call.called)


async def test_a_hook_sends_calls_where_it_wants(stage: Stage) -> None:
    async with stage.gateway(hooks=[Chosen()]) as gateway:
        await healthy(gateway)
        for called, name in (("5", "pa5-tel1"), ("1", "pa2-tel1"), ("7", "pa2-tel1"), ("5", "pa5-tel1")):
            stage.invite(called=called)
            reached, server, invite = await stage.reached()
            assert (reached, invite.uri_user) == (name, called)
            server.reply(invite, 486)
            assert (await stage.carrier.status(486)).call_id == invite.call_id
        assert gateway.own_statistics()["hook_answers"] == {"chosen": 3, "default": 1}


@pytest.mark.parametrize("kind", ["hangs", "raises", "nonsense", "awaits for ever"])
async def test_whatever_a_hook_does_the_call_goes_on(stage: Stage, kind: str) -> None:
    release = threading.Event()

    class Bad:
        def choose(self, call: NewCall) -> Any:
            if kind == "raises":
                raise RuntimeError("no")
            if kind == "awaits for ever":
                return asyncio.Event().wait()
            return release.wait() if kind == "hangs" else 42

    async with stage.gateway(hooks=[Bad()]) as gateway:
        await healthy(gateway)
        stage.invite()
        name, server, invite = await stage.reached()
        server.reply(invite, 486)
        await stage.carrier.status(486)
        assert name == "pa2-tel1"
        await until(lambda: sum(gateway.own_statistics()["hook_failures"].values()) == 1)
        release.set()


async def test_a_call_is_told_from_its_set_up_to_its_end(stage: Stage) -> None:
    async with stage.gateway() as gateway:
        await healthy(gateway)
        told: list[GatewayEvent] = []
        listening = asyncio.ensure_future(collect(gateway.events(), told))
        call_id = stage.invite()
        _, server, invite = await stage.reached()
        server.reply(invite, 180)
        server.reply(invite, 200)
        answer = await stage.carrier.status(200)
        stage.carrier.in_dialog("ACK", answer, stage.gateway_at)
        await server.request("ACK")
        stage.carrier.in_dialog("BYE", answer, stage.gateway_at, cseq=2)
        server.reply(await server.request("BYE"), 200)
        await until(lambda: any(isinstance(event, Ended) for event in told))
        calls = [event for event in told if isinstance(event, CallEvent)]
        assert [type(event) for event in calls] == [SetUp, Ringing, Answered, Ended]
        assert {(event.call_id, event.destination) for event in calls} == {(call_id, "pa2-tel1")}
    await listening


async def test_a_call_that_fails_is_told_with_its_status(stage: Stage) -> None:
    async with stage.gateway() as gateway:
        await healthy(gateway)
        told: list[GatewayEvent] = []
        listening = asyncio.ensure_future(collect(gateway.events(), told))
        stage.invite()
        _, server, invite = await stage.reached()
        server.reply(invite, 486)
        await until(lambda: any(isinstance(event, Failed) for event in told))
        assert [event.status for event in told if isinstance(event, Failed)] == [486]
    await listening


async def test_a_dead_server_costs_no_call_and_is_noticed(stage: Stage) -> None:
    async with stage.gateway() as gateway:
        await healthy(gateway)
        told: list[GatewayEvent] = []
        listening = asyncio.ensure_future(collect(gateway.events(), told))
        stage.servers.pop("pa2-tel1").close()
        stage.invite()
        name, server, invite = await stage.reached()
        server.reply(invite, 486)
        await stage.carrier.status(486)
        await until(lambda: any(isinstance(event, HealthChanged) and event.after == "down" for event in told))
        assert name == "pa5-tel1"
        down = next(event for event in told if isinstance(event, HealthChanged) and event.after == "down")
        assert (down.destination, down.reason) == ("pa2-tel1", "icmp")
        assert [event.destination for event in told if isinstance(event, SetUp | FailedOver)][-1] == "pa5-tel1"
    await listening


async def test_a_drained_server_gets_no_new_call_but_keeps_its_own(stage: Stage) -> None:
    async with stage.gateway() as gateway:
        await healthy(gateway)
        stage.invite()
        name, first, invite = await stage.reached()
        first.reply(invite, 200)
        answer = await stage.carrier.status(200)
        stage.carrier.in_dialog("ACK", answer, stage.gateway_at)
        gateway.switch("pa2-tel1", "drain")
        stage.invite()
        other, second, invite = await stage.reached()
        assert (name, other) == ("pa2-tel1", "pa5-tel1")
        second.reply(invite, 486)
        await stage.carrier.status(486)
        stage.carrier.in_dialog("BYE", answer, stage.gateway_at, cseq=2)
        first.reply(await first.request("BYE"), 200)
        await stage.carrier.hears(lambda it: it.status == 200 and it.method == "BYE")


async def test_reload_under_a_call_brings_a_new_server_in(stage: Stage) -> None:
    async with stage.gateway() as gateway:
        await healthy(gateway)
        stage.invite()
        _, server, invite = await stage.reached()
        server.reply(invite, 180)
        await stage.carrier.status(180)
        text = stage.path.read_text()
        stage.path.write_text(text.replace("127.0.9.51", "127.0.9.52").replace('"pa5-tel1"', '"pa5-tel2"'))
        async with SipPeer(("127.0.9.52", 5071)) as new:
            await gateway.reload()
            await healthy(gateway)
            gateway.switch("pa2-tel1", "maintenance")
            server.reply(invite, 200)
            assert (await stage.carrier.status(200)).call_id == invite.call_id
            call_id = stage.invite()
            second = await new.request("INVITE")
            assert second.call_id == call_id
            new.reply(second, 486)
            await stage.carrier.status(486)


async def collect(events: Subscription, told: list[GatewayEvent]) -> None:
    async for event in events:
        told.append(event)
