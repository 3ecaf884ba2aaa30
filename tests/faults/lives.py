# SPDX-License-Identifier: Apache-2.0
"""What may happen to a call while its gateway is away: each life stops at ``yield`` twice, when the gateway goes and
when it (or another one with the same key) is there again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

from phones import Leg

Life = Callable[[Leg], AsyncIterator[None]]

ENDS_WITHIN = 45.0
"""Seconds from the return of the gateway to the end of every call: a request is given up after 32."""


def established(act: Callable[[Leg], Awaitable[None]], *, meanwhile: bool) -> Life:
    """A call that is answered; then *act* happens, while there is no gateway or when there is one again."""

    async def life(leg: Leg) -> AsyncIterator[None]:
        await leg.establish()
        yield
        acting = asyncio.ensure_future(act(leg)) if meanwhile else None
        yield
        await (acting or act(leg))
        if not leg.caller_dialog().ended.done():
            await leg.bye()

    return life


def ringing(act: Callable[[Leg], None], status: int, *, meanwhile: bool) -> Life:
    """A call that rings; then *act* happens, and the caller gets *status*."""

    async def life(leg: Leg) -> AsyncIterator[None]:
        await leg.set_up()
        yield
        if meanwhile:
            act(leg)
        yield
        if not meanwhile:
            act(leg)
        await _ends(leg, status)

    return life


async def _ends(leg: Leg, status: int) -> None:
    if status == 200:
        await leg.is_established()
        await leg.reinvite()
        await leg.bye(by_caller=False)
        return
    seen = await leg.outcome()
    assert seen == status, f"{leg.call_id} got {seen} instead of {status}"
    assert await leg.transaction.acknowledged, f"no ACK came for the {status} of {leg.call_id}"


async def unanswered(leg: Leg) -> AsyncIterator[None]:
    """The server has the INVITE and has said nothing yet when the gateway goes."""
    await leg.arrives()
    yield
    yield
    leg.ring()
    await leg.rings()
    leg.answer()
    await _ends(leg, 200)


async def placed_meanwhile(leg: Leg) -> AsyncIterator[None]:
    """The INVITE itself is sent while there is no gateway: the test begins the call only then."""
    yield
    yield
    await leg.establish()
    await leg.bye()


async def acknowledged_into_the_void(leg: Leg) -> AsyncIterator[None]:
    """The ACK of the answer dies with the gateway; the answer comes again, and so does the ACK."""
    leg.caller.without_ack.add(leg.call_id)
    await leg.set_up()
    leg.answer()
    await leg.outcome()
    yield
    leg.caller.without_ack.discard(leg.call_id)
    yield
    await _ends(leg, 200)


def bye_by_caller(leg: Leg) -> Awaitable[None]:
    return leg.bye(by_caller=True)


def bye_by_callee(leg: Leg) -> Awaitable[None]:
    return leg.bye(by_caller=False)


def reinvite_by_caller(leg: Leg) -> Awaitable[None]:
    return leg.reinvite(by_caller=True)


def reinvite_by_callee(leg: Leg) -> Awaitable[None]:
    return leg.reinvite(by_caller=False)


LIVES: dict[str, Life] = {
    "answered but not acknowledged": acknowledged_into_the_void,
    "BYE of the caller after": established(bye_by_caller, meanwhile=False),
    "BYE of the caller meanwhile": established(bye_by_caller, meanwhile=True),
    "BYE of the callee after": established(bye_by_callee, meanwhile=False),
    "BYE of the callee meanwhile": established(bye_by_callee, meanwhile=True),
    "re-INVITE of the caller after": established(reinvite_by_caller, meanwhile=False),
    "re-INVITE of the caller meanwhile": established(reinvite_by_caller, meanwhile=True),
    "re-INVITE of the callee after": established(reinvite_by_callee, meanwhile=False),
    "re-INVITE of the callee meanwhile": established(reinvite_by_callee, meanwhile=True),
    "answered after": ringing(Leg.answer, 200, meanwhile=False),
    "answered meanwhile": ringing(Leg.answer, 200, meanwhile=True),
    "refused after": ringing(Leg.refuse, 486, meanwhile=False),
    "refused meanwhile": ringing(Leg.refuse, 486, meanwhile=True),
    "cancelled after": ringing(Leg.cancel, 487, meanwhile=False),
    "cancelled meanwhile": ringing(Leg.cancel, 487, meanwhile=True),
    "set up, server silent so far": unanswered,
}

Step = Callable[[], Awaitable[None]]


async def live(new_leg: Callable[[], Leg], goes: Step, returns: Step, *, each: int = 5) -> Counter[str]:
    """Lead *each* calls through each life; returns how many of which did not end as they should, and why."""
    lives = [(name, life(new_leg())) for name, life in LIVES.items() for _ in range(each)]
    faults: Counter[str] = Counter()

    async def step(name: str, life: AsyncIterator[None]) -> None:
        try:
            async with asyncio.timeout(ENDS_WITHIN):
                await anext(life)
        except StopAsyncIteration:
            pass
        except (AssertionError, TimeoutError) as error:
            faults[f"{name}: {error or 'no end'}"] += 1

    async def everybody() -> None:
        await asyncio.gather(*(step(name, life) for name, life in lives))

    await everybody()
    await goes()
    late = [("placed meanwhile", placed_meanwhile(new_leg())) for _ in range(each)]
    await asyncio.gather(*(step(name, life) for name, life in late))
    await everybody()
    await returns()
    lives += late
    await asyncio.gather(*(step(name, life) for name, life in late))
    await everybody()
    return faults
