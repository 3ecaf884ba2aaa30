# SPDX-License-Identifier: Apache-2.0
"""The whole platform on this machine: real gateways, simulated SBCs and servers, two deaths, no call lost."""

from __future__ import annotations

import asyncio
import gc
import json as json_format
import math
import random
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import uvloop
from rich.console import Console
from rich.live import Live

from ubisip.lab.platform import LabPlatform, Part, free_platform
from ubisip.lab.process import GatewayFailure, GatewayProcess
from ubisip.lab.screen import PartSecond, Second, line, record, table
from ubisip.lab.simulation import Simulation
from ubisip.lab.useragent import PATIENCE

LAST_CALLS = 5.0
"""Seconds before the end from which no new call is placed; a sixth of a short demo."""
GATEWAY_AWAY = 15.0
"""Seconds that the killed gateway stays away at most: user agents repeat a BYE or a 200 for 32 s, not longer."""
FINISH_WITHIN = 20.0
"""Seconds that calls in progress may take to their end once the time is over."""
AGENTS = 200
"""Phones, each registered with both sites; they take the calls that the servers get."""
ASK_WITHIN = 0.5
"""Seconds a gateway may take to tell what it sees."""
SHOWN_FAULTS = 10
"""Lost calls that are explained at the end."""
INTERRUPTED = 130
"""Exit status after Ctrl-C or SIGTERM, as shells have it."""

Show = Callable[[Second], None]


@dataclass(frozen=True, slots=True)
class Result:
    """How the demo ended; the counts are calls, the delays milliseconds."""

    sentence: str
    details: list[str]
    calls: int
    answered: int
    ended: int
    taken_by_agents: int
    failed: dict[int, int]
    """By status."""
    lost: dict[str, list[str]]
    """What went wrong, by Call-ID."""
    cut: int
    """Carried by the server when it was killed."""
    reached_two_servers: dict[str, list[str]]
    worst_delay_ms: float
    worst_delay_dead_gateway_ms: float
    """Of the calls that met the dead gateway; they are not in the one above."""
    exit: int


def run_demo(duration: float = 60, rate: float = 50, seed: int = 1, json: bool = False) -> int:
    """Run the demo for *duration* seconds at *rate* new calls a second; 0: nothing was lost, 1: something was.

    Everything it starts is gone when it returns, also after Ctrl-C or SIGTERM (130).
    """
    console, complaint = Console(highlight=False), Console(stderr=True, highlight=False, soft_wrap=True)
    console.soft_wrap = not console.is_terminal  # lines stay whole in files
    try:
        with _screen(console, json) as show, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(_interruptible(_demo(duration, rate, seed, show)))
    except (GatewayFailure, OSError) as error:
        complaint.print(f"demo: {error}", style="red", markup=False)
        return 1
    except asyncio.CancelledError:
        complaint.print("demo: interrupted; everything it started has been stopped")
        return INTERRUPTED
    if json:
        print(json_format.dumps({"final": True, **asdict(result)}), flush=True)
    else:
        console.print(result.sentence, style="bold red" if result.exit else "bold green")
        for text in result.details:
            console.print(text, markup=False)
    return result.exit


@contextmanager
def _screen(console: Console, json: bool) -> Iterator[Show]:
    """A table that is drawn anew each second; a line a second where the output is no terminal."""
    if json:
        yield lambda second: print(json_format.dumps(record(second)), flush=True)
    elif console.is_terminal and not console.is_dumb_terminal:
        with Live("starting the gateways...", console=console, auto_refresh=False) as live:
            yield lambda second: live.update(table(second), refresh=True)
    else:
        yield lambda second: print(line(second), flush=True)


async def _interruptible(work: Coroutine[Any, Any, Result]) -> Result:
    """Run *work*; the first Ctrl-C, SIGTERM or SIGHUP cancels it, so that it can clean up."""
    task = asyncio.create_task(work)

    def interrupt() -> None:
        if not task.cancelling():
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, interrupt)
    return await task


async def _demo(duration: float, rate: float, seed: int, show: Show) -> Result:
    platform = free_platform(phones=AGENTS)
    with tempfile.TemporaryDirectory(prefix="ubisip-demo-") as folder, _steady_memory():
        demo = Demo(platform, platform.write(Path(folder)), duration, rate, seed)
        try:
            return await demo.run(show)
        finally:
            await demo.close()


@contextmanager
def _steady_memory() -> Iterator[None]:
    """Full garbage collections would stop the simulated phones for some 100 ms and be measured as delay."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(before[0], before[1], 1_000_000)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


class Demo:
    """One run: the parts, what happens to them, and what is told of it each second."""

    def __init__(self, platform: LabPlatform, config: Path, duration: float, rate: float, seed: int) -> None:
        chosen = random.Random(seed)
        self.platform = platform
        self.duration = duration
        self.simulation = Simulation(platform, rate=rate, seed=seed)
        self.gateways = {part.name: GatewayProcess(part.name, config) for part in platform.gateways}
        self.dying_server = chosen.choice(platform.servers).name
        self.dying_gateway = chosen.choice(platform.gateways).name
        self._events: list[tuple[int, str]] = []
        self._told = 0
        self._seen: dict[str, str] = {}
        self._before: Counter[str] = Counter()
        self._start = 0.0
        self._script: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None

    async def run(self, show: Show) -> Result:
        """Everything from the start of the gateways to the judgement of the last call.

        :raises GatewayFailure: a gateway did not start, or ended by itself.
        :raises OSError: an address was taken meanwhile.
        """
        self.simulation.open()
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_WITHIN))
        await asyncio.gather(*(gateway.start() for gateway in self.gateways.values()))
        self.simulation.register()
        self.simulation.start_calls()
        self._start = asyncio.get_running_loop().time()
        self._script = asyncio.create_task(self._play())
        for number in range(1, math.ceil(self.duration) + 1):
            await self._until(number)
            self._check()
            show(await self._second(number))
        await self._script
        await self.simulation.finish(FINISH_WITHIN)
        self._check()
        return self._result()

    async def close(self) -> None:
        """Stop all that was started."""
        if self._script:
            self._script.cancel()
        self.simulation.close()
        if self._session:
            await self._session.close()
        await asyncio.gather(*(gateway.stop() for gateway in self.gateways.values()))

    # ---- what happens

    async def _play(self) -> None:
        await asyncio.gather(self._server_dies(), self._gateway_dies(), self._calls_end())

    async def _server_dies(self) -> None:
        name = self.dying_server
        await self._until(0.25 * self.duration)
        self.simulation.servers[name].kill()
        self._tell(f"{name} killed: a telephony server, with the calls that it carried")
        await self._until(0.75 * self.duration)
        self.simulation.restart(name)
        self._tell(f"{name} returned")

    async def _gateway_dies(self) -> None:
        name = self.dying_gateway
        await self._until(0.5 * self.duration)
        self.gateways[name].kill()
        self.simulation.tally.dead.update(part.address for part in self.platform.gateways if part.name == name)
        self._tell(f"{name} killed: a gateway, with SIGKILL")
        await self._until(min(0.75 * self.duration, 0.5 * self.duration + GATEWAY_AWAY))
        await self.gateways[name].start()
        self.simulation.tally.dead.clear()
        self._tell(f"{name} returned")

    async def _calls_end(self) -> None:
        await self._until(self.duration - min(LAST_CALLS, self.duration / 6))
        self.simulation.stop_calls()
        self._tell("no new calls; those in progress go on to their end")

    async def _until(self, second: float) -> None:
        await asyncio.sleep(self._start + second - asyncio.get_running_loop().time())

    def _tell(self, text: str) -> None:
        self._events.append((int(asyncio.get_running_loop().time() - self._start), text))

    def _check(self) -> None:
        """Fail as soon as a part of the demo itself has failed."""
        if self._script and self._script.done():
            self._script.result()
        for gateway in self.gateways.values():
            gateway.check()

    # ---- what is told

    async def _second(self, number: int) -> Second:
        health = await self._health()
        tally = self.simulation.tally
        delays = tally.take_delays()
        second = Second(
            second=number,
            duration=self.duration,
            parts=tuple(self._parts(health)),
            placed=tally.placed,
            new=self._since("calls", tally.placed),
            in_progress=len(tally.calls),
            answered=tally.answered,
            ended=tally.ended,
            failed=tally.failed,
            lost=len(tally.lost) + len(self.simulation.legs.lost),
            agents=len(self.simulation.phones),
            at_both_sites=sum(phone.sites == 2 for phone in self.simulation.phones.values()),
            at_one_site=sum(phone.sites == 1 for phone in self.simulation.phones.values()),
            cut=len(tally.cut),
            worst=delays[-1] if delays else 0.0,
            p99=delays[int(0.99 * len(delays))] if delays else 0.0,
            events=tuple(self._events),
            news=tuple(text for _, text in self._events[self._told :]),
        )
        self._told = len(self._events)
        return second

    def _parts(self, health: dict[str, str]) -> Iterator[PartSecond]:
        tally = self.simulation.tally
        entered = Counter(call.hop for call in tally.calls.values())
        for part in self.platform.gateways:
            state = self.gateways[part.name].state
            new = self._since(part.name, tally.tried[part.address])
            yield PartSecond(part.name, "gateway", part.site, state, entered[part.address], new)
        for kind, parts in (("sbc", self.platform.sbcs), ("server", self.platform.servers)):
            for part in parts:
                party = self.simulation.parties[part.name]
                state = health.get(part.name, "unknown") if party.is_open else "killed"
                new = self._since(part.name, party.new)
                yield PartSecond(part.name, kind, part.site, state, len(party.carried), new)

    def _since(self, name: str, count: int) -> int:
        """By how much a counter grew since the last second."""
        grown, self._before[name] = count - self._before[name], count
        return grown

    async def _health(self) -> dict[str, str]:
        """What most gateways see of each SBC and server; a change that all of them see is told."""
        gateways = [part for part in self.platform.gateways if self.gateways[part.name].ready]
        views = [view for view in await asyncio.gather(*map(self._ask, gateways)) if view]
        merged = {name: Counter(view.get(name, "unknown") for view in views) for name in (views[0] if views else ())}
        for name, states in merged.items():
            state, agreed = states.most_common(1)[0][0], len(states) == 1
            if agreed and state in ("up", "down") and self._seen.get(name, "up") != state:
                self._tell(f"the gateways see {name} {state}")
            if agreed:
                self._seen[name] = state
        return {name: states.most_common(1)[0][0] for name, states in merged.items()}

    async def _ask(self, gateway: Part) -> dict[str, str]:
        """Health of the destinations as one gateway sees it; empty when it does not answer."""
        assert self._session
        with suppress(aiohttp.ClientError, TimeoutError, ValueError):
            async with self._session.get(f"http://{gateway.admin}/api/v1/platform") as answer:
                status = await answer.json()
                return {row["name"]: row["state"] for row in status.get("destinations", ())}
        return {}

    # ---- how it ended

    def _result(self) -> Result:
        tally, legs = self.simulation.tally, self.simulation.legs
        lost, cut = {**tally.lost, **legs.lost}, len(tally.cut)
        killed = f"{self.dying_server} and {self.dying_gateway} killed"
        verdict = f"{len(lost) or 'no'} call{'s' * (len(lost) > 1)} lost, {tally.failed or 'none'} failed"
        details = [f"{call_id}: {', '.join(faults)}" for call_id, faults in list(lost.items())[:SHOWN_FAULTS]]
        details += [f"{count} calls failed with {status}" for status, count in tally.failures.items()]
        if tally.twice:
            details.append(f"{len(tally.twice)} calls reached two servers.")
        if cut:
            details.append(f"{cut} calls that {self.dying_server} itself carried when it was killed ended with it.")
        served = sum(phone.new > 0 for phone in self.simulation.phones.values())
        details.append(f"{served} of {AGENTS} agents took {legs.answered:,} of them, each registered with both sites.")
        details.append(f"Post-dial delay at worst {1000 * tally.worst_delay:,.0f} ms.")
        if tally.worst_retried:
            delay = f"{1000 * tally.worst_retried:,.0f} ms"
            details.append(f"Calls that met the dead gateway: {delay} at worst, as SBCs wait {PATIENCE:.0f} s for it.")
        return Result(
            sentence=f"{tally.placed:,} calls, {killed}: {verdict}.",
            details=details,
            calls=tally.placed,
            answered=tally.answered,
            ended=tally.ended,
            taken_by_agents=legs.answered,
            failed=dict(tally.failures),
            lost=lost,
            cut=cut,
            reached_two_servers=tally.twice,
            worst_delay_ms=round(1000 * tally.worst_delay, 1),
            worst_delay_dead_gateway_ms=round(1000 * tally.worst_retried, 1),
            exit=int(bool(lost or tally.failed or not tally.placed)),
        )
