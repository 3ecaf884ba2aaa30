# SPDX-License-Identifier: Apache-2.0
"""SIP proxies side by side: CPU time, memory and delay for each call, on one machine and in the same minute.

Every round runs every candidate in turn under the same SIPp load, so that a slow minute of the machine meets all of
them; the result is the median over the rounds of the ratio within each round. The candidate is alone on one
processor, SIPp (caller and servers) on another. A round is void, and says why, when it would say nothing: the rate
was not reached, or more than 0.1 % of the calls failed, or of the requests were sent again.

    python -m bench.sidebyside --rate 2000 --calls 20000 --rounds 5 relay kamailio ubisip
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench import processes, sipp
from bench.candidates import CANDIDATES, Place

PROXY_CPU, SIPP_CPU = 0, 1
REQUESTS_A_CALL = 3
QUIET = 0.5
"""Load average below which nothing else disturbs a measure."""
USUAL = ["relay", "kamailio", "ubisip"]


@dataclass(frozen=True)
class Measure:
    """One candidate in one round."""

    us_per_call: float = 0.0
    """CPU microseconds of all its threads."""
    pss_mib: float = 0.0
    """Memory when the load has ended."""
    seen: dict[str, Any] = field(default_factory=dict)
    """What the caller counted (:meth:`bench.sipp.Outcome.figures`)."""
    void: str = ""
    """Why the measure says nothing; empty when it is sound."""


def measure(name: str, load: sipp.Load, directory: Path, settle: float = 1.5) -> Measure:
    """Start candidate *name* and its servers, put *load* on it, stop everything."""
    place, log, at = Place(directory), directory / f"{name}.log", (sipp.GATEWAY, sipp.PORT)
    started: list[subprocess.Popen[bytes]] = []
    try:
        proxy = processes.start_listener(CANDIDATES[name](place), at, PROXY_CPU, log, directory)
        started.append(proxy)
        started += sipp.start_servers(sipp.server_addresses(len(place.servers)), directory, SIPP_CPU)
        try:
            proxy.wait(settle)  # lets it look at its servers; it must not end
        except subprocess.TimeoutExpired:
            return _under_load(proxy.pid, load, directory)
        return Measure(void=f"ended with status {proxy.returncode}")
    except RuntimeError as error:
        return Measure(void=str(error))
    finally:
        for process in reversed(started):
            processes.stop(process)


def _under_load(pid: int, load: sipp.Load, directory: Path) -> Measure:
    before = processes.cpu_ns(pid)
    sipp.start_caller(load, directory, SIPP_CPU).wait()
    used, memory = processes.cpu_ns(pid) - before, processes.memory_mib(pid)
    seen = sipp.outcome(directory)
    return Measure(used / 1000 / load.calls, memory, seen.figures(), void_reason(seen, load))


def void_reason(seen: sipp.Outcome, load: sipp.Load) -> str:
    """Why a run says nothing about its candidate; empty when it does."""
    if seen.made < load.calls or seen.cps < 0.98 * load.rate:
        return f"made {seen.made} calls at {seen.cps:.0f}/s instead of {load.calls} at {load.rate}/s"
    if seen.failed > 0.001 * load.calls:
        return f"{seen.failed} of {load.calls} calls failed"
    if seen.retransmissions > 0.001 * REQUESTS_A_CALL * load.calls:
        return f"{seen.retransmissions} retransmissions"
    return ""


def run(names: Sequence[str], load: sipp.Load, rounds: int, console: Console) -> list[dict[str, Measure]]:
    """Measure every candidate *rounds* times, in turn; shows where it is on *console*."""
    done: list[dict[str, Measure]] = []
    with tempfile.TemporaryDirectory(prefix="sidebyside-") as work, Progress(console=console) as progress:
        task = progress.add_task("", total=rounds * len(names))
        for number in range(rounds):
            done.append({})
            for name in names:
                progress.update(task, description=f"round {number + 1}: {name}")
                done[-1][name] = result = measure(name, load, Path(work))
                progress.console.print(f"round {number + 1} {name}: {_line(result)}", highlight=False)
                progress.advance(task)
    return done


def _line(result: Measure) -> str:
    seen = result.seen
    if not seen:
        return f"void: {result.void}"
    text = (
        f"{result.us_per_call:.1f} us/call, {result.pss_mib:.1f} MiB, post-dial delay p50 {seen['pdd_p50_ms']:.0f}"
        f" p99 {seen['pdd_p99_ms']:.0f} ms, {seen['failed']} failed, {seen['retransmissions']} sent again"
    )
    return f"{text}; void: {result.void}" if result.void else text


def summary(names: Sequence[str], rounds: Sequence[dict[str, Measure]]) -> dict[str, dict[str, Any]]:
    """For each candidate the medians over its sound rounds, and the ratios to every other in the same round."""
    result: dict[str, dict[str, Any]] = {}
    for name in names:
        sound = [figures[name] for figures in rounds if not figures[name].void]
        result[name] = {"rounds": len(rounds), "void": len(rounds) - len(sound)}
        if sound:
            result[name] |= {
                "us_per_call": statistics.median(one.us_per_call for one in sound),
                "pss_mib": statistics.median(one.pss_mib for one in sound),
                "ratios": {other: _ratios(name, other, rounds) for other in names if other != name},
            }
            for key in ("cps", "failed", "retransmissions", "pdd_p50_ms", "pdd_p99_ms"):
                result[name][key] = statistics.median(one.seen[key] for one in sound)
    return result


def _ratios(name: str, base: str, rounds: Sequence[dict[str, Measure]]) -> dict[str, float] | None:
    ratios = [
        figures[name].us_per_call / figures[base].us_per_call
        for figures in rounds
        if not figures[name].void and not figures[base].void
    ]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)} if ratios else None


def table(names: Sequence[str], figures: dict[str, dict[str, Any]]) -> Table:
    """The summary for people; ratios are to the first candidate and to Kamailio."""
    bases = [base for base in dict.fromkeys([names[0], "kamailio"]) if base in names]
    result = Table("candidate", title="us: CPU time a call; p50, p99: post-dial delay in ms")
    for column in (*(f"/ {base}" for base in bases), "us", "MiB", "p50", "p99", "failed", "resent", "void"):
        result.add_column(column, justify="right", no_wrap=True)
    for name in names:
        one = figures[name]
        if "us_per_call" not in one:
            result.add_row(name, *("" for _ in bases), *[""] * 6, f"{one['void']}/{one['rounds']}")
            continue
        cells = [_ratio_text(one["ratios"].get(base)) if base != name else "1" for base in bases]
        keys = ("pss_mib", "pdd_p50_ms", "pdd_p99_ms", "failed", "retransmissions")
        figures_of = (f"{one['us_per_call']:.1f}", *(f"{one[key]:.0f}" for key in keys))
        result.add_row(name, *cells, *figures_of, f"{one['void']}/{one['rounds']}")
    return result


def _ratio_text(ratio: dict[str, float] | None) -> str:
    return f"{ratio['median']:.2f}" if ratio else "-"


def record(
    names: Sequence[str], load: sipp.Load, rounds: Sequence[dict[str, Measure]], busy_before: float
) -> dict[str, Any]:
    """All that was measured and where, as plain values for a JSON file; *busy_before* is the load average before it."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average_before": busy_before,
        "machine": processes.versions(),
        "load": {"rate": load.rate, "calls": load.calls},
        "rounds": [{name: vars(figures[name]) for name in names} for figures in rounds],
        "summary": summary(names, rounds),
    }


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidates", nargs="*", help=f"of {', '.join(CANDIDATES)}; default: {' '.join(USUAL)}")
    parser.add_argument("--rate", type=int, default=2000, help="calls per second (2000)")
    parser.add_argument("--calls", type=int, default=20000, help="calls of each candidate in each round (20000)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    args = parser.parse_args(words)
    names = args.candidates or USUAL
    if not set(names) <= set(CANDIDATES):
        parser.error(f"candidates are {', '.join(CANDIDATES)}")
    console, load, busy = Console(), sipp.Load(args.rate, args.calls), os.getloadavg()[0]
    if busy > QUIET:
        console.print(f"This machine is not quiet (load average {busy:.1f}): expect void rounds and wide ranges.")
    rounds = run(names, load, args.rounds, console)
    result = record(names, load, rounds, busy)
    console.print(table(names, result["summary"]))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if all("us_per_call" in one for one in result["summary"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
