# SPDX-License-Identifier: Apache-2.0
"""The control thread stands while more phones register than its ring holds: calls go on, no binding is lost."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Gateway, Place, until, wait_until

from ubisip.lab.platform import DOMAIN, PASSWORD

PHONES = 20_000
"""The ring holds 16,384 records."""
BRIEFLY, LONG = 300, 3600
"""Seconds that phones register for at first, and while the control thread stands."""
RATE, CALLS = 100, 1500

STANDS_STILL = """
import asyncio, pathlib, sys, time, ubisip

async def main(path, node, orders):
    async with ubisip.Gateway(ubisip.Config.load(path), node=node):
        print(f"ubisip {node} ready on its listeners", flush=True)
        while not (orders / "stand").exists():
            await asyncio.sleep(0.05)
        (orders / "standing").touch()
        while not (orders / "go on").exists():
            time.sleep(0.05)
        await asyncio.Event().wait()

asyncio.run(main(sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])))
"""
"""A gateway in a program that holds up the event loop when it is told to."""


async def register(place: Place, expires: int) -> None:
    """Let all phones register, *expires* seconds each."""
    host, port = place.gateway()
    command = [sys.executable, "-m", "ubisip.lab.storm", f"{host}:{port}", "--phones", str(PHONES)]
    command += ["--within", "14", "--limit", "90", "--hosts", place.other()[0], "--expires", str(expires)]
    child = place.run("storm", command)
    await until(lambda: not child.running, "the phones to be registered", 120)
    assert json.loads(child.output.read_text())["registered"] == PHONES, child.words()


def bindings(gateway: Gateway) -> Iterator[dict[str, Any]]:
    """All that a gateway has, page by page."""
    after = 0
    while True:
        url = f"http://{gateway.admin}/api/v1/agents?after={after}&limit=1000"
        with urllib.request.urlopen(url, timeout=30) as response:
            page = json.load(response)
        yield from page["bindings"]
        after = page["after"]
        if not after:
            return


def gateway_that_obeys(place: Place, orders: Path) -> Gateway:
    """A gateway that looks for its orders, files, in a directory."""
    gateway = place.new_gateway()
    command = [sys.executable, "-c", STANDS_STILL, str(place.config), gateway.name, str(orders)]
    gateway.child = place.run(gateway.name, command)
    wait_until(lambda: gateway.ready, "the gateway to be ready")
    return gateway


@pytest.mark.long
async def test_more_phones_register_than_the_ring_holds(place: Place, tmp_path: Path, record: dict[str, float]) -> None:
    """What the journal lacks afterwards is made good by a new snapshot: a kill then loses nothing."""
    place.write(servers=3, carriers=1)
    section = f'[agents]\nrealm = "{DOMAIN}"\ndomains = ["{DOMAIN}"]\ncredentials = "file:users.csv"\nmirror = "off"\n'
    place.config.write_text(place.config.read_text() + "\n" + section)
    users = "".join(f"agent{number};{PASSWORD}\n" for number in range(1, PHONES + 1))
    (place.directory / "users.csv").write_text(users)
    for number in range(1, 4):
        place.answer(place.server(number))
    gateway = gateway_that_obeys(place, tmp_path)
    await until(lambda: gateway.sees("up", "tel1", "tel2", "tel3"), "all servers to be up")
    await register(place, BRIEFLY)
    (tmp_path / "stand").touch()
    await until((tmp_path / "standing").exists, "the control thread to stand")
    load = place.call(place.carrier(), place.gateway(), rate=RATE, calls=CALLS)
    await register(place, LONG)
    during = load.wait(60)
    (tmp_path / "go on").touch()
    await until(lambda: gateway.counter("ubisip_bindings_kept_errors_total") > 0, "the gap to be seen")
    snapshot, since = place.directory / "state" / "gw1.bindings", (tmp_path / "go on").stat().st_mtime
    await until(lambda: snapshot.exists() and snapshot.stat().st_mtime > since, "a new snapshot", 60)
    record |= {"calls": during.made, "failed": during.failed, "worst delay, ms": during.worst * 1000}
    gateway.kill()
    again = place.start_gateway()
    await until(lambda: again.metrics().get("ubisip_bindings") == PHONES, "all bindings after the restart")
    kept = list(bindings(again))
    assert len(kept) == PHONES and min(one["expires"] for one in kept) > BRIEFLY
    assert during.made == CALLS and not during.failed and not during.retransmissions
