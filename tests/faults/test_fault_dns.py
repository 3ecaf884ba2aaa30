# SPDX-License-Identifier: Apache-2.0
"""One of two hosting providers is lost: the name goes to the other within 10 s, people are told, nothing is ever empty.

Two gateways, one in each site, agree before they act. The name servers refuse, stay behind, say 429 and 500.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import Child, Gateway, Place, until
from tiers.daemons_common import Yard, free_port, listens
from tiers.daemons_dns import KEY, ZONE, Named, key_file, primary, primary_zone, secondary
from tiers.daemons_messages import Alertmanager
from tiers.fake_services import Cloudflare, Service
from tiers.gateways import gateways_with, member_states, post

pytestmark = pytest.mark.long

NAME = f"www.{ZONE}"
ONE, TWO = "192.0.2.1", "198.51.100.2"
BAR = 10.0
"""Seconds from the loss to the other record."""
CLOUDFLARE_ZONE, TOKEN = "0123456789abcdef0123456789abcdef", "a-token"

TIER = """
[tiers.web]
kind = "http"
mode = "automatic"
interval = 0.5
fast_interval = 0.2
timeout = 1.0
members = [
  {{ name = "provider-1", site = "PA2", address = "http://127.0.0.1:{ports[0]}/" }},
  {{ name = "provider-2", site = "PA5", address = "http://127.0.0.1:{ports[1]}/" }},
]
on_member_down = ["{action}", "alert"]
on_healthy = ["{action}"]
on_switchover = ["{action}"]
on_failback = ["{action}"]

[sinks.alert]
alertmanagers = ["{alertmanager}"]
"""
ACTION = """
[actions.{action}]
names = ["{name}"]
values = {{ "provider-1" = ["{one}"], "provider-2" = ["{two}"] }}
serve = "first"
"""
BIND = """
server = "{server}"
name_servers = ["{other}"]
zone = "{zone}"
key_name = "{key}"
key_file = "{file}"
"""
CLOUDFLARE = """
api = "{url}"
zone = "{zone}"
token_file = "{file}"
"""


class Providers:
    """Two web servers, an Alertmanager, two gateways."""

    def __init__(self, place: Place, yard: Yard, action: str, more: str) -> None:
        self.place = place
        self._yard = yard
        self.alertmanager = Alertmanager(yard)
        self.ports = [free_port(), free_port()]
        self.servers = [self.start(number) for number in range(2)]
        text = TIER.format(ports=self.ports, action=action, alertmanager=self.alertmanager.url)
        text += ACTION.format(action=action, name=NAME, one=ONE, two=TWO) + more
        self.gateways = gateways_with(place, text, 2)

    def start(self, number: int) -> Child:
        script = Path(__file__).resolve().parents[1] / "tiers" / "web_server.py"
        name = f"provider-{number + 1}"
        child = self._yard.run(name, [sys.executable, str(script), name, str(self.ports[number])])
        return self._yard.until(child, lambda: listens(self.ports[number]))

    def leader(self) -> Gateway | None:
        return next((one for one in self.gateways if json.loads(one.get("/api/v1/tiers"))["leads"]), None)

    def logs(self) -> str:
        """What both gateways wrote."""
        return "".join(one.log() for one in self.gateways)

    def told(self) -> list[str]:
        """The summaries of the alerts that Alertmanager has."""
        return [one["annotations"]["summary"] for one in self.alertmanager.alerts()]

    async def ready(self) -> None:
        """Both see both, one leads, and it has nothing to do."""
        await until(lambda: all(self._sees(one) for one in self.gateways), "both gateways to see both providers")
        await until(self._plans, "the leader to have looked at the name")

    def _sees(self, gateway: Gateway) -> bool:
        return set(member_states(gateway, "web").values()) == {"up"}

    def _plans(self) -> bool:
        leader = self.leader()
        return leader is not None and bool(json.loads(leader.get("/api/v1/tiers"))["plans"])

    def plan_done(self) -> bool:
        """A plan that was made because of the loss has succeeded."""
        leader = self.leader()
        plans = json.loads(leader.get("/api/v1/tiers"))["plans"] if leader else []
        return ("member-down", "done") in [(one["cause"], one["progress"]) for one in plans]

    def fail_back(self) -> dict[str, Any]:
        leader = self.leader()
        assert leader is not None
        return post(self.place, "/api/v1/tiers/web/failback", {}, 1 + self.gateways.index(leader))


@pytest.fixture
def yard() -> Iterator[Yard]:
    one = Yard("bind")
    yield one
    one.close()


def name_servers(yard: Yard) -> tuple[Named, Named, str]:
    """Primary, secondary, and the action's parameters for them."""
    port = free_port()
    first = primary(yard, port)
    second = secondary(yard, first.port, port)
    parameters = {"server": first.address, "other": second.address, "zone": ZONE, "key": KEY}
    file = Path(key_file(yard))
    file.chmod(0o644)
    return first, second, BIND.format(file=file, **parameters)


@asynccontextmanager
async def watched(*servers: Named) -> AsyncIterator[list[list[str]]]:
    """All sets of values of NAME that anybody saw on these name servers meanwhile."""
    seen: list[list[str]] = []

    async def look() -> None:
        while True:
            for one in servers:
                seen.append(await asyncio.to_thread(one.values, NAME))
            await asyncio.sleep(0.01)

    task = asyncio.create_task(look())
    try:
        yield seen
    finally:
        task.cancel()
    assert seen and all(seen), "there was a moment in which the name had no address"


async def test_a_lost_provider_loses_the_name_and_gets_it_back_only_when_asked(
    place: Place, yard: Yard, record: dict[str, float]
) -> None:
    first, second, parameters = name_servers(yard)
    site = Providers(place, yard, "dns-rfc2136", parameters)
    await site.ready()
    async with watched(first, second):
        began = time.monotonic()
        site.servers[0].kill()
        await until(lambda: first.values(NAME) == second.values(NAME) == [TWO], "both to have the other address")
        record["switched"] = time.monotonic() - began
        await until(site.told, "the alert")
        record["told"] = time.monotonic() - began
        assert record["switched"] < BAR
        assert record["told"] < 2 * BAR
        site.start(0)
        await site.ready()
        serial = first.serial()
        await asyncio.sleep(3)
        assert (first.values(NAME), first.serial()) == ([TWO], serial), "it does not come back by itself"
        assert site.fail_back()["progress"] == "done"
        assert first.values(NAME) == [ONE]
        await until(lambda: second.values(NAME) == [ONE], "the secondary to follow")


async def test_a_refused_update_is_retried_reported_and_done_in_the_end(
    place: Place, yard: Yard, record: dict[str, float]
) -> None:
    first, second, parameters = name_servers(yard)
    site = Providers(place, yard, "dns-rfc2136", parameters)
    await site.ready()
    async with watched(first, second):
        first.replace_zone(primary_zone(first.directory, False))
        site.servers[0].kill()
        await until(lambda: "REFUSED" in site.logs(), "the refusal to be heard of")
        assert first.values(NAME) == [ONE], "nothing is changed"
        first.replace_zone(primary_zone(first.directory, True))
        began = time.monotonic()
        await until(lambda: first.values(NAME) == second.values(NAME) == [TWO], "both to have the other address", 60)
        record["done after"] = time.monotonic() - began
    await until(site.told, "the alert")


async def test_a_secondary_that_stays_behind_is_reported_and_followed_up(
    place: Place, yard: Yard, record: dict[str, float]
) -> None:
    first, second, parameters = name_servers(yard)
    site = Providers(place, yard, "dns-rfc2136", parameters)
    await site.ready()
    second.child.kill()
    began = time.monotonic()
    async with watched(first):
        site.servers[0].kill()
        await until(lambda: first.values(NAME) == [TWO], "the primary to have the other address")
        record["switched"] = time.monotonic() - began
        await until(
            lambda: any(second.address in gateway.log() for gateway in site.gateways), "the one behind to be named"
        )
        second.start()
        second.rndc("refresh", ZONE)
        await until(site.plan_done, "the plan to be done", 60)
    assert record["switched"] < BAR
    assert second.values(NAME) == [TWO]


async def test_cloudflare_that_says_429_and_500_is_asked_again(
    place: Place, yard: Yard, record: dict[str, float]
) -> None:
    cloudflare = Cloudflare(CLOUDFLARE_ZONE, TOKEN)
    cloudflare.add(NAME, ONE)
    file = yard.write("token", TOKEN)
    async with Service(cloudflare) as service:
        parameters = CLOUDFLARE.format(url=service.url, zone=CLOUDFLARE_ZONE, file=file)
        site = await asyncio.to_thread(Providers, place, yard, "dns-cloudflare", parameters)
        await site.ready()
        cloudflare.failures = [(429, {"Retry-After": "1"}), (500, {}), (429, {"Retry-After": "1"}), (500, {})]
        cloudflare.lose_answers = 1
        began = time.monotonic()
        site.servers[0].kill()
        await until(lambda: cloudflare.values(NAME) == [TWO], "the other address")
        record["switched"] = time.monotonic() - began
        await until(site.told, "the alert")
    assert record["switched"] < BAR
    comments = {one["comment"] for batch in cloudflare.batches for one in batch["patches"] + batch["posts"]}
    assert len(comments) == 1, "the same key however often it is tried"
    assert all(cloudflare.sizes)
