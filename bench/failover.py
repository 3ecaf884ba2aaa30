# SPDX-License-Identifier: Apache-2.0
"""How long writes pause when the primary database dies or freezes: real MariaDB servers, HAProxy, a gateway.

    python -m bench.failover                                      20 kills, 10 freezes
    python -m bench.failover --kills 5 --freezes 0 --json FILE

Each run has a fresh tier of four servers, and four applications that write through HAProxy. What is told: the seconds
from the fault to the first write that the new primary acknowledges, and the acknowledged writes that are lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.processes import versions

# The platform is the one of the fault tests.
TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "faults")]

from processes import Place  # noqa: E402
from tiers.mariadb_ledger import check  # noqa: E402
from tiers.mariadb_rig import make_template, missing  # noqa: E402
from tiers.mariadb_world import World  # noqa: E402

SETTLE = 1.0
"""Seconds of writing before the fault, and after the first write that the new primary acknowledges."""


@dataclass(frozen=True)
class Run:
    """One fault."""

    seconds: float
    """Until the new primary acknowledged a write."""
    acknowledged: int
    lost: bool


async def run(fault: str, template: Path) -> Run:
    """Cause *fault* once."""
    with tempfile.TemporaryDirectory(prefix="failover-") as directory:
        place = Place(Path(directory))
        world = World(place, template)
        try:
            await world.start()
            return await _run(fault, world)
        finally:
            await world.close()
            place.close()


async def _run(fault: str, world: World) -> Run:
    old = world.databases.primary
    async with world.writing() as writers:
        await asyncio.sleep(SETTLE)
        old.kill() if fault == "killed" else old.freeze()
        moment = time.monotonic()
        first = await writers.until_written(moment, 60.0, old)
        await asyncio.sleep(SETTLE)
    old.kill()  # it could not answer the question that comes now
    lost = False
    try:
        await check(world.ledger, await world.primary())
    except AssertionError as error:
        print(error, file=sys.stderr)
        lost = True
    return Run(first.at - moment, len(world.ledger.acknowledged), lost)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that *share* of all do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def summary(runs: Sequence[Run]) -> dict[str, float]:
    """The figures of all runs of one fault."""
    seconds = [one.seconds for one in runs]
    return {
        "runs": len(runs),
        "median_s": statistics.median(seconds),
        "p99_s": percentile(seconds, 0.99),
        "worst_s": max(seconds),
        "acknowledged": sum(one.acknowledged for one in runs),
        "runs_with_losses": sum(one.lost for one in runs),
    }


async def measure(counts: dict[str, int], console: Console) -> dict[str, dict[str, float]]:
    """Every fault as often as *counts* says."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="template-") as directory:
        template = make_template(Path(directory))
        for fault, count in counts.items():
            runs = []
            for number in range(1, count + 1):
                runs.append(await run(fault, template))
                console.print(f"{fault} {number}/{count}: {runs[-1].seconds:.2f} s", highlight=False)
            if runs:
                found[fault] = summary(runs)
    return found


def table(found: dict[str, dict[str, float]]) -> Table:
    """The figures for people."""
    titles = ("primary", "runs", "median, s", "p99, s", "worst, s", "acknowledged writes", "runs with losses")
    it = Table(*titles)
    for fault, row in found.items():
        times = (f"{row[key]:.2f}" for key in ("median_s", "p99_s", "worst_s"))
        it.add_row(fault, f"{row['runs']}", *times, f"{row['acknowledged']}", f"{row['runs_with_losses']}")
    return it


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--freezes", type=int, default=10)
    parser.add_argument("--json", type=Path, help="where the figures go as well")
    options = parser.parse_args(arguments)
    if missing():
        sys.exit(f"{missing()} is not installed")
    console = Console(stderr=True)
    found = asyncio.run(measure({"killed": options.kills, "frozen": options.freezes}, console))
    Console().print(table(found))
    if options.json:
        options.json.write_text(json.dumps({"machine": versions(), "faults": found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
