# SPDX-License-Identifier: Apache-2.0
"""The routing hook: Python asked where a new call goes, under a deadline, never in the way of the others."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import queue
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from ubisip.core.message import Message
from ubisip.proxy.logs import Brake

log = logging.getLogger(__name__)

MAX_ASKED = 2_000
"""Calls that wait for hooks at one moment (each a task of some 5 kB); beyond it the default policy decides at once."""
HOOK_THREADS = 4
"""Threads for hooks that are plain functions: one that hangs must not stop the others, nor the control loop."""


@dataclass(frozen=True, slots=True)
class NewCall:
    """What a hook is told of a new call."""

    call_id: str
    caller: str
    """User part of the From URI."""
    called: str
    """User part of the Request-URI."""
    peer: str
    """Name of the carrier or server that sent it; empty: it could not be told."""
    message: Message
    """The INVITE as it came."""


@runtime_checkable
class Hook(Protocol):
    """Chooses the destination of new calls.

    ``choose`` returns the name of a carrier or server to try first, or None: the next hook, at last the default policy,
    decides. It may be ``async``; a plain function is called in one of HOOK_THREADS threads. Retransmissions, requests
    inside a call and other methods are never asked about.
    """

    def choose(self, call: NewCall) -> str | Awaitable[str | None] | None: ...


class HookFailure(Exception):
    """A hook gave no usable answer; *reason* is ``error``, ``late``, ``nonsense`` or ``full``."""

    def __init__(self, reason: str, cause: str) -> None:
        super().__init__(cause)
        self.reason = reason


class Asking:
    """Asks the hooks in their order; counts and logs what goes wrong with them.

    *exists* tells whether a name is a destination that calls can be sent to. ``failures`` counts by reason,
    ``answers`` by what was decided (``chosen`` or ``default``).
    """

    def __init__(self, hooks: Sequence[Hook], exists: Callable[[str], bool]) -> None:
        self._hooks = tuple(hooks)
        self._exists = exists
        self._brake = Brake()
        self._threads = _HookThreads() if any(not _is_async(hook) for hook in hooks) else None
        self._waiting = 0
        self.failures: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._hooks)

    async def choose(self, call: NewCall, deadline: float) -> str | None:
        """The destination that the hooks want for *call*, within *deadline* seconds; None: the default policy."""
        name: str | None = None
        try:
            name = await self._bounded(call, deadline)
        except HookFailure as failure:
            self._failed(failure)
        self.answers["default" if name is None else "chosen"] += 1
        return name

    async def _bounded(self, call: NewCall, deadline: float) -> str | None:
        if self._waiting >= MAX_ASKED:
            raise HookFailure("full", f"{MAX_ASKED} calls wait for hooks already")
        self._waiting += 1
        try:
            async with asyncio.timeout(deadline):
                return await self._first(call)
        except TimeoutError as error:
            raise HookFailure("late", "no answer within routing.hook_timeout") from error
        finally:
            self._waiting -= 1

    async def _first(self, call: NewCall) -> str | None:
        for hook in self._hooks:
            name = await self._one(hook, call)
            if name is not None:
                return name
        return None

    async def _one(self, hook: Hook, call: NewCall) -> str | None:
        """The answer of one hook, checked."""
        who = type(hook).__name__
        try:
            answer = await self._call(hook, call)
        except HookFailure:
            raise
        except Exception as error:
            raise HookFailure("error", f"{who} raised {type(error).__name__}: {error}") from error
        if answer is None:
            return None
        if not isinstance(answer, str):
            raise HookFailure("nonsense", f"{who} returned {type(answer).__name__}, not the name of a destination")
        if not self._exists(answer):
            raise HookFailure("nonsense", f"{who} returned {answer[:80]!r}, which is no destination")
        return answer

    async def _call(self, hook: Hook, call: NewCall) -> Any:
        if self._threads is None or _is_async(hook):
            answer: Any = hook.choose(call)
        else:
            answer = await self._threads.run(hook.choose, call)
        return await answer if inspect.isawaitable(answer) else answer

    def _failed(self, failure: HookFailure) -> None:
        self.failures[failure.reason] += 1
        held = self._brake.passes(f"{failure.reason} {failure.__cause__.__class__.__name__}")
        if held is not None:
            more = f" ({held} more since the last such line)" if held else ""
            log.warning("routing hook: %s; the default policy decides%s", failure, more)


_Outcome = tuple[Any, Exception | None]
_Work = tuple[Callable[[NewCall], Any], NewCall, "asyncio.Future[_Outcome]"]


def _is_async(hook: Hook) -> bool:
    return inspect.iscoroutinefunction(hook.choose)


class _HookThreads:
    """A few daemon threads: unlike an executor's, one in which a hook hangs does not keep the process from ending."""

    def __init__(self) -> None:
        self._work: queue.Queue[_Work] = queue.Queue(MAX_ASKED)
        for number in range(HOOK_THREADS):
            threading.Thread(target=self._serve, name=f"ubisip-hook-{number}", daemon=True).start()

    async def run(self, function: Callable[[NewCall], Any], call: NewCall) -> Any:
        """What *function* returns or raises in one of the threads."""
        future: asyncio.Future[_Outcome] = asyncio.get_running_loop().create_future()
        try:
            self._work.put_nowait((function, call, future))
        except queue.Full:  # every thread hangs
            raise HookFailure("full", f"{MAX_ASKED} calls wait for a hook's thread already") from None
        result, error = await future
        if error is not None:
            raise error
        return result

    def _serve(self) -> None:
        while True:
            function, call, future = self._work.get()
            if not future.cancelled():  # else its deadline passed while it waited for a thread
                _deliver(future, _outcome(function, call))


def _outcome(function: Callable[[NewCall], Any], call: NewCall) -> _Outcome:
    try:
        return function(call), None
    except Exception as error:
        return None, error
    except BaseException as error:  # sys.exit() in a hook must end neither its thread nor the gateway
        return None, RuntimeError(f"raised {type(error).__name__}")


def _deliver(future: asyncio.Future[_Outcome], outcome: _Outcome) -> None:
    """Hand the outcome to the loop that waits; a loop that is closed by now waits no more."""
    with contextlib.suppress(RuntimeError):
        future.get_loop().call_soon_threadsafe(_settle, future, outcome)


def _settle(future: asyncio.Future[_Outcome], outcome: _Outcome) -> None:
    if not future.done():
        future.set_result(outcome)
