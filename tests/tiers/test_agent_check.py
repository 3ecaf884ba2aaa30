# SPDX-License-Identifier: Apache-2.0
"""What HAProxy's agent check is told: the line as HAProxy understands it, and by whom a real one lets itself be led."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from processes import until
from tiers.daemons_common import Yard, free_port
from tiers.daemons_haproxy import Haproxy

from ubisip.admin.agent_check import AgentCheck, Share, line
from ubisip.health.haproxy import statistics, talk
from ubisip.platform import Endpoint

WORDS = re.compile(rb"(?:up(?: ready)? [0-9]{1,3}%|(?:down|drain)(?: #[A-Za-z0-9 ._:/-]+)?)\n")


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (Share("up", ready=True), b"up ready 100%\n"),
        (Share("up", 40), b"up 40%\n"),
        (Share("up", 0), b"up 1%\n"),
        (Share("up", 250), b"up 100%\n"),
        (Share("down"), b"down\n"),
        (Share("down", reason="http.500"), b"down #http.500\n"),
        (Share("drain", reason="draining"), b"drain #draining\n"),
        (Share("down", reason="a\nup ready 100%\r\n\x00é" + "x" * 500), None),
    ],
)
def test_each_line_is_one_that_haproxy_understands(share: Share, said: bytes | None) -> None:
    """``down#reason`` is not: HAProxy 2.6 would leave the server up."""
    assert WORDS.fullmatch(line(share))
    assert said is None or line(share) == said


class Answers:
    """Says of each subject what it is told to."""

    def __init__(self) -> None:
        self.shares: dict[str, Share | None] = {}
        self.asked: list[str] = []

    def share(self, subject: str) -> Share | None:
        self.asked.append(subject)
        return self.shares.get(subject)


@asynccontextmanager
async def served(answers: Answers) -> AsyncIterator[int]:
    port, server = free_port(), AgentCheck(answers)
    await server.start(Endpoint("tcp", "127.0.0.1", port))
    try:
        yield port
    finally:
        await server.stop()


async def said(port: int, question: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(question)
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


async def test_who_is_asked_for_and_who_is_not() -> None:
    answers = Answers()
    answers.shares = {"": Share("up", 70, ready=True), "web/web1": Share("down", reason="refused")}
    async with served(answers) as port:
        assert await said(port, b"web/web1\n") == b"down #refused\n"
        assert await said(port, b"") == b"up ready 70%\n"
        assert await said(port, b"web/nobody\n") == b"", "silence changes nothing"
        assert await said(port, b"x" * 10_000) == b"up ready 70%\n"
        assert await said(port, b"\xff\xfe\n") == b""


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ubisip.admin.agent_check.MAX_CONNECTIONS", 2)
    monkeypatch.setattr("ubisip.admin.agent_check.PATIENCE", 60.0)
    answers = Answers()
    answers.shares = {"web/web1": Share("up")}
    async with served(answers) as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        assert await said(port, b"") == b"", "one too many: closed at once, which changes nothing"
        for _, writer in silent:
            writer.write(b"web/web1\n")
        assert [await reader.read() for reader, _ in silent] == [b"up 100%\n"] * 2
        assert await said(port, b"web/web1\n") == b"up 100%\n"
        for _, writer in silent:
            writer.close()


@pytest.fixture
def yard() -> Iterator[Yard]:
    one = Yard()
    yield one
    one.close()


async def test_a_real_haproxy_follows_and_the_run_time_socket_has_the_last_word(yard: Yard) -> None:
    answers = Answers()
    answers.shares = {"web/web1": Share("up"), "": Share("up", ready=True)}
    async with served(answers) as port:
        agent = f"weight 100 agent-check agent-port {port} agent-inter 50ms"
        lines = [f'web1 127.0.0.1:1 {agent} agent-send "web/web1\\n"', f"gw1 127.0.0.1:2 {agent}"]
        proxy = await asyncio.to_thread(Haproxy, yard, "web", lines)

        async def row(name: str) -> dict[str, str]:
            found = await statistics(proxy.socket, 2)
            return {one["svname"]: dict(one) for one in found if one["pxname"] == "web"}[name]

        async def becomes(name: str, status: str, weight: str = "") -> None:
            async with asyncio.timeout(20):
                while (it := await row(name))["status"] != status or (weight and it["weight"] != weight):
                    await asyncio.sleep(0.02)

        await becomes("web1", "no check")
        answers.shares["web/web1"] = Share("up", 30)
        await becomes("web1", "no check", "30")
        answers.shares["web/web1"] = Share("down", reason="http.500")
        await becomes("web1", "DOWN (agent)")
        answers.shares["web/web1"] = None
        count = len(answers.asked)
        await until(lambda: len(answers.asked) > count + 10, "it to ask on")
        assert (await row("web1"))["status"] == "DOWN (agent)", "silence changes nothing"
        answers.shares["web/web1"] = Share("up", 100)
        await becomes("web1", "no check", "100")

        await talk(proxy.socket, "set server web/web1 state maint", 2)
        count = len(answers.asked)
        await until(lambda: len(answers.asked) > count + 10, "it to ask on")
        assert (await row("web1"))["status"] == "MAINT", "a member's health does not undo what a plan has done"

        answers.shares[""] = Share("drain", reason="draining")
        await becomes("gw1", "DRAIN (agent)")
        answers.shares[""] = Share("up", 60, ready=True)
        await becomes("gw1", "no check", "60")
    await asyncio.sleep(0.3)
    assert (await row("gw1"))["status"] == "no check", "an agent that is gone changes nothing"
