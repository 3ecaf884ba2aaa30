# SPDX-License-Identifier: Apache-2.0
"""A web server refuses, hangs or answers 500: HAProxy stops using it in time, and it comes back with a ramp.

HAProxy has no checks of its own here: it does what ubisip says, by its agent check or by the run-time socket.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from processes import Child, Place, wait_until
from tiers.daemons_common import Yard, free_port, listens
from tiers.daemons_haproxy import Haproxy
from tiers.gateways import AGENT_PORT, gateways_with, member_states

pytestmark = pytest.mark.long

TIER = """
[tiers.web]
kind = "http"
mode = "automatic"
interval = 0.1
fast_interval = 0.1
down_interval = 0.2
timeout = 0.4
fall = 2
rise = 2
slow_start = 3.0
members = [
  {{ name = "web1", site = "PA2", address = "http://127.0.0.1:{ports[0]}/" }},
  {{ name = "web2", site = "PA5", address = "http://127.0.0.1:{ports[1]}/" }},
  {{ name = "web3", site = "PA5", address = "http://127.0.0.1:{ports[2]}/" }},
]
{rules}
"""
BY_SOCKET = """
on_member_down = ["haproxy"]
on_healthy = ["haproxy"]

[actions.haproxy]
sockets = ["{socket}"]
backend = "web"
"""


@dataclass
class Client:
    """Asks for a page all the time, 50 times a second, each in a thread of its own."""

    port: int
    answers: list[tuple[float, int, str]] = field(default_factory=list)
    """When it was asked for, the status (0: none) and who answered."""
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self._over.wait(0.02):
            threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        at = time.monotonic()
        status, server = 0, ""
        with suppress(OSError):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=3) as answer:
                    status, server = answer.status, answer.headers["X-Server"]
            except urllib.error.HTTPError as error:
                status, server = error.code, error.headers.get("X-Server", "")
        self.answers.append((at, status, server))

    def stop(self) -> None:
        self._over.set()

    def last_failure(self, since: float) -> float:
        """Seconds from *since* to the last request that got no page; 0 when all did."""
        return max((at - since for at, status, _ in self.answers if at >= since and status != 200), default=0.0)

    def served(self, name: str, since: float) -> int:
        return sum(server == name and status == 200 for at, status, server in self.answers if at >= since)


class Site:
    """Three web servers behind an HAProxy, and a gateway that watches them."""

    def __init__(self, place: Place, yard: Yard, by: str) -> None:
        self.yard = yard
        self.ports = [free_port() for _ in range(3)]
        self.servers = [self._start(number) for number in range(3)]
        self.proxy = Haproxy(yard, "web", [self._line(place, number, by) for number in range(3)], mode="http")
        rules = BY_SOCKET.format(socket=self.proxy.socket) if by == "socket" else ""
        (self.gateway,) = gateways_with(place, TIER.format(ports=self.ports, rules=rules))
        self.client = Client(self.proxy.port)
        wait_until(lambda: set(self._states().values()) == {"up"}, "all web servers to be up")
        wait_until(self._all_serve, "HAProxy to use all of them")
        threading.Thread(target=self.client.run, daemon=True).start()
        wait_until(lambda: len(self.client.answers) > 50, "the client to be at work")
        assert all(status == 200 for _, status, _ in self.client.answers)

    def _start(self, number: int) -> Child:
        script = Path(__file__).resolve().parents[1] / "tiers" / "web_server.py"
        child = self.yard.run(
            f"web{number + 1}", [sys.executable, str(script), f"web{number + 1}", str(self.ports[number])]
        )
        return self.yard.until(child, lambda: listens(self.ports[number]))

    def _line(self, place: Place, number: int, by: str) -> str:
        name = f"web{number + 1}"
        line = f"{name} 127.0.0.1:{self.ports[number]} weight 100 slowstart 3s"
        if by == "socket":
            return line
        agent = f"agent-check agent-addr {place.gateway()[0]} agent-port {AGENT_PORT} agent-inter 100ms"
        return f'{line} {agent} agent-send "web/{name}\\n"'

    def _states(self) -> dict[str, str]:
        return member_states(self.gateway, "web")

    def _all_serve(self) -> bool:
        return {one.weight for one in self.proxy.servers().values()} == {100} and self.proxy.usable() == 3

    def refuse(self) -> Callable[[], object]:
        """The process is killed; what undoes it."""
        self.servers[0].kill()

        def start() -> None:
            self.servers[0] = self._start(0)

        return start

    def hang(self) -> Callable[[], object]:
        self.servers[0].signal(signal.SIGSTOP)
        return lambda: self.servers[0].signal(signal.SIGCONT)

    def fail(self) -> Callable[[], object]:
        (self.yard.directory / "web1.sick").touch()
        return (self.yard.directory / "web1.sick").unlink


@pytest.fixture
def yard() -> Iterator[Yard]:
    one = Yard()
    yield one
    one.close()


@pytest.mark.parametrize("by", ["agent", "socket"])
@pytest.mark.parametrize(("fault", "bar"), [("refuse", 0.5), ("hang", 1.5), ("fail", 3.0)])
def test_haproxy_stops_using_a_sick_web_server(
    place: Place, yard: Yard, record: dict[str, float], by: str, fault: str, bar: float
) -> None:
    """The bars are 0.5 s, 1.5 s and 3 s: refuses, hangs, answers 500."""
    site = Site(place, yard, by)
    heal = {"refuse": site.refuse, "hang": site.hang, "fail": site.fail}[fault]()
    began = time.monotonic()
    wait_until(lambda: site.proxy.usable() == 2, "HAProxy to have left it")
    left = time.monotonic() - began
    time.sleep(4)  # requests that hang have a time-out of 3 s: all that were sent to it have come back
    last = site.client.last_failure(began)
    assert site.client.served("web2", began) and site.client.served("web3", began)
    record.update(left=left, last_failure=last)

    healed = time.monotonic()
    heal()
    wait_until(lambda: site.proxy.usable() == 3, "HAProxy to use it again")
    weights = set()
    until = time.monotonic() + 15
    while (weight := site.proxy.effective_weights()["web1"]) < 100 and time.monotonic() < until:
        weights.add(weight)
        time.sleep(0.05)
    record.update(back=time.monotonic() - healed, steps=len(weights))
    site.client.stop()
    assert weight == 100 and min(weights) < 60 and len(weights) >= 3, f"it comes back with a ramp: {sorted(weights)}"
    assert left < bar and last < bar
    assert not site.client.last_failure(healed + 0.1), "nobody notices that it comes back"
