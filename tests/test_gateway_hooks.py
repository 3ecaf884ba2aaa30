# SPDX-License-Identifier: Apache-2.0
"""Routing hooks: whatever a hook does, a call gets a decision in time, and what went wrong is counted and told once."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from ubisip.core.message import Message
from ubisip.proxy import hooks
from ubisip.proxy.hooks import Asking, NewCall

INVITE = (
    b"INVITE sip:0123456789@127.0.0.1 SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 127.0.0.1:5090;branch=z9hG4bKhook\r\n"
    b"From: <sip:0612345678@127.0.0.1>;tag=1\r\nTo: <sip:0123456789@127.0.0.1>\r\n"
    b"Call-ID: hook-1\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\nX-Customer: gold\r\nContent-Length: 0\r\n\r\n"
)
CALL = NewCall("hook-1", "0612345678", "0123456789", "sbc-1", Message(INVITE))
SERVERS = {"pa2-tel1", "pa2-tel2"}
LONG = 30.0


class Sync:
    def __init__(self, choose: Callable[[NewCall], Any]) -> None:
        self._choose = choose

    def choose(self, call: NewCall) -> Any:
        return self._choose(call)


class Async:
    def __init__(self, choose: Callable[[NewCall], Any]) -> None:
        self._choose = choose

    async def choose(self, call: NewCall) -> Any:
        await asyncio.sleep(0)
        return self._choose(call)


def asking(*wanted: Any) -> Asking:
    return Asking(wanted, SERVERS.__contains__)


def fail(call: NewCall) -> str:
    raise RuntimeError(f"no database for {call.called}")


def leave(call: NewCall) -> str:
    raise SystemExit(3)


@pytest.mark.parametrize("kind", [Sync, Async])
async def test_a_hook_chooses_by_what_it_is_told(kind: type[Sync] | type[Async]) -> None:
    def choose(call: NewCall) -> str | None:
        assert (call.caller, call.called, call.peer) == ("0612345678", "0123456789", "sbc-1")
        return "pa2-tel2" if call.message.get("x-customer") == "gold" else None

    wanted = asking(kind(choose))
    assert await wanted.choose(CALL, LONG) == "pa2-tel2"
    assert (wanted.answers, wanted.failures) == ({"chosen": 1}, {})


async def test_a_plain_function_may_return_an_awaitable() -> None:
    async def later() -> str:
        return "pa2-tel1"

    assert await asking(Sync(lambda call: later())).choose(CALL, LONG) == "pa2-tel1"


async def test_the_first_hook_with_a_wish_decides() -> None:
    asked: list[str] = []

    def note(name: str, answer: str | None) -> Sync:
        return Sync(lambda call: (asked.append(name), answer)[1])

    wanted = asking(note("a", None), note("b", "pa2-tel1"), note("c", "pa2-tel2"))
    assert await wanted.choose(CALL, LONG) == "pa2-tel1"
    assert asked == ["a", "b"]


async def test_no_wish_is_the_default_policy_and_no_failure() -> None:
    wanted = asking(Async(lambda call: None))
    assert await wanted.choose(CALL, LONG) is None
    assert (wanted.answers, wanted.failures) == ({"default": 1}, {})


@pytest.mark.parametrize("kind", [Sync, Async])
@pytest.mark.parametrize(
    ("choose", "reason"),
    [
        (fail, "error"),
        (lambda call: 7, "nonsense"),
        (lambda call: "pa9-tel1", "nonsense"),
        (lambda call: b"", "nonsense"),
    ],
)
async def test_a_hook_without_a_usable_answer_is_counted(
    kind: type[Sync] | type[Async], choose: Callable[[NewCall], Any], reason: str
) -> None:
    wanted = asking(kind(choose))
    assert await wanted.choose(CALL, LONG) is None
    assert (wanted.answers, wanted.failures) == ({"default": 1}, {reason: 1})


@pytest.mark.parametrize("raised", [StopIteration, TimeoutError, SystemExit])
async def test_exceptions_that_asyncio_treats_apart_are_errors_like_the_others(raised: type[BaseException]) -> None:
    def choose(call: NewCall) -> str:
        raise raised

    wanted = asking(Sync(choose))
    for _ in range(hooks.HOOK_THREADS + 1):  # none of the threads was lost
        assert await wanted.choose(CALL, LONG) is None
    assert wanted.failures == {"error": hooks.HOOK_THREADS + 1}


async def test_an_async_hook_that_hangs_is_late() -> None:
    class Hanging:
        async def choose(self, call: NewCall) -> str | None:
            await asyncio.Event().wait()
            return None

    wanted = asking(Hanging())
    assert await wanted.choose(CALL, 0.01) is None
    assert wanted.failures == {"late": 1}


async def test_a_plain_function_that_hangs_is_late_and_does_not_stop_the_others() -> None:
    release = threading.Event()
    wanted = asking(Sync(lambda call: release.wait() and None if call.caller == "slow" else "pa2-tel1"))
    slow = NewCall("hook-2", "slow", "1", "", CALL.message)
    try:
        assert await wanted.choose(slow, 0.01) is None
        assert await wanted.choose(CALL, LONG) == "pa2-tel1"
    finally:
        release.set()
    assert wanted.failures == {"late": 1}


async def test_when_every_thread_hangs_calls_stop_waiting_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "MAX_ASKED", 3)
    release, held = threading.Event(), threading.Semaphore(0)
    wanted = asking(Sync(lambda call: (held.release(), release.wait())[0]))
    try:
        for _ in range(hooks.HOOK_THREADS):  # each takes a thread, and its call goes on when it is late
            late = asyncio.ensure_future(wanted.choose(CALL, 0.05))
            await asyncio.to_thread(held.acquire)
            await late
        for _ in range(5):
            await wanted.choose(CALL, 0.01)
    finally:
        release.set()
    assert wanted.failures == {"late": hooks.HOOK_THREADS + 3, "full": 2}


async def test_too_many_calls_at_once_go_on_by_the_default_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "MAX_ASKED", 2)
    release = asyncio.Event()

    class Slow:
        async def choose(self, call: NewCall) -> str | None:
            await release.wait()
            return "pa2-tel1"

    wanted = asking(Slow())
    calls = [asyncio.ensure_future(wanted.choose(CALL, LONG)) for _ in range(3)]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    release.set()
    assert sorted(map(str, await asyncio.gather(*calls))) == ["None", "pa2-tel1", "pa2-tel1"]
    assert wanted.failures == {"full": 1}


async def test_a_failing_hook_is_logged_once_a_minute_for_each_cause(caplog: pytest.LogCaptureFixture) -> None:
    wanted = asking(Async(fail))
    odd = asking(Async(lambda call: 7))
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            await wanted.choose(CALL, LONG)
            await odd.choose(CALL, LONG)
    assert [record.getMessage() for record in caplog.records] == [
        "routing hook: Async raised RuntimeError: no database for 0123456789; the default policy decides",
        "routing hook: Async returned int, not the name of a destination; the default policy decides",
    ]
