# SPDX-License-Identifier: Apache-2.0
"""The gateway that the engine and the token targets fuzz: two carriers, three servers, one stranger."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from messages import Address

from ubisip.config import Config
from ubisip.core.engine import Engine
from ubisip.core.snapshot import Slots, Snapshot
from ubisip.platform import DestinationState

KEY = bytes(range(16))
GATEWAY: Address = ("127.0.0.1", 5060)
CARRIERS: list[Address] = [("127.0.0.1", 5090), ("127.0.0.2", 5090)]
SERVERS: list[Address] = [("127.0.3.1", 5060), ("127.0.3.2", 5060), ("127.0.3.3", 5060)]
PEERS = [*CARRIERS, *SERVERS]
STRANGER: Address = ("192.0.2.66", 5060)
GATEWAY_URI = b"sip:0155@127.0.0.1:5060"

PEER = '[[{table}]]\nname = "{name}"\nsite = "{site}"\nuri = "sip:{host}:{port}"\nsources = ["{host}:{port}"]\n{more}'


def configuration() -> str:
    tables = ['[platform]\nname = "fuzz"\nenvironment = "test"\nstate_dir = "state"\n[sites.PA2]\n[sites.PA5]\n']
    tables.append('[[gateways]]\nname = "gw"\nsite = "PA2"\nlisten = ["udp:127.0.0.1:5060"]\n')
    for table, addresses, more in (("carriers", CARRIERS, 'centre = "c{0}"\n'), ("servers", SERVERS, "")):
        for number, (host, port) in enumerate(addresses):
            site = "PA5" if number == 2 or (number == 1 and table == "carriers") else "PA2"
            fields = {"table": table, "name": f"{table}{number}", "site": site, "host": host, "port": port}
            tables.append(PEER.format(more=more.format(number), **fields))
    tables.append("[routing]\nhook_timeout = 0.5\n[limits]\ntransactions = 64\nmemory = 4\ncalls = 16\n")
    return "\n".join(tables)


CONFIG_TEXT = configuration()
CONFIG = Config.parse(CONFIG_TEXT)
SLOTS = Slots()
PLAIN = Snapshot(CONFIG, "gw", SLOTS)


def snapshot(states: Mapping[str, DestinationState], **options: bool) -> Snapshot:
    return Snapshot(CONFIG, "gw", SLOTS, states, **options)


def drain(engine: Engine, now: float, most: float = 1000.0) -> float:
    """Let every timer fire that runs, at most *most* seconds long; the time it is then."""
    end = now + most
    for _ in itertools.count():
        due = engine.next_timer()
        if due is None or due > end:
            return now
        now = max(now, due)
        engine.advance(now)
        engine.outbox()
    raise AssertionError("not reached")


def in_use(engine: Engine) -> dict[str, int]:
    """What must be zero when all calls have ended: transactions, buffers, calls in set-up."""
    statistics = engine.statistics()
    setup = sum(load["setup"] for load in statistics["destinations"].values())
    return {name: statistics[name] for name in ("transactions", "buffers", "pending")} | {"setup": setup}
