# SPDX-License-Identifier: Apache-2.0
"""Write the figures in README.md from bench/results, as docs/performance.md has them.

Run it as ``python docs/make_figures.py``, after ``make bench``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "bench" / "results"
BEGIN = "<!-- figures: written by docs/make_figures.py from bench/results; do not edit -->\n"
END = "<!-- end of figures -->\n"
NAMES = ("relay", "kamailio", "ubisip")


def readme() -> str:
    """The whole of README.md with the figures as they were measured last."""
    before, _, rest = README.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + _table() + END + after


def _load(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def _table() -> str:
    load = _load("sidebyside")
    peer = load["machine"]["kamailio"].partition("kamailio ")[2].split(" ")[0]
    rows = (*_load_rows(load), *_code_rows(), *_agent_rows(), *_fault_rows())
    lines = [
        f"| measured side by side | bare relay | Kamailio {peer} | ubisip |",
        "|---|---:|---:|---:|",
        *(f"| {what} | {' | '.join(cells)} |" for what, cells in rows),
    ]
    return "\n".join(lines) + "\n"


Row = tuple[str, list[str]]


def _load_rows(measured: dict[str, Any]) -> list[Row]:
    summary = [measured["summary"][name] for name in NAMES]
    rate = f"{measured['load']['rate']:,} calls/s"
    ratios = [one.get("ratios", {}).get("kamailio") for one in summary]
    spread = [f"{it['median']:.2f} ({it['min']:.2f} to {it['max']:.2f})" if it else "1" for it in ratios]
    return [
        (f"CPU time a call at {rate}, microseconds", [f"{one['us_per_call']:.1f}" for one in summary]),
        ("the same by Kamailio's of the same round: median (range)", spread),
        ("memory after that load, MiB", [f"{one['pss_mib']:.1f}" for one in summary]),
        ("post-dial delay, 99th percentile, ms", [f"{one['pdd_p99_ms']:.0f}" for one in summary]),
    ]


def _code_rows() -> list[Row]:
    counted = _load("callgrind")["instructions_per_call"]
    return [("instructions of own code a call", ["", *(f"{counted[name]:,.0f}" for name in NAMES[1:])])]


def _agent_rows() -> list[Row]:
    """The registrar's; none as long as they were not measured."""
    if not (RESULTS / "register.json").exists():
        return []
    measured = _load("register")
    one, ratio = measured["summary"], measured["summary"]["ratio"]
    rate = f"{measured['load']['rate']:,}/s"
    cpu = [f"{one[name]['us_per_registration']:.1f}" for name in NAMES[1:]]
    spread = f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
    memory, replay = measured["memory"], measured["replay"]
    return [
        (f"CPU time a registration at {rate}, microseconds", ["", *cpu]),
        ("the same by Kamailio's of the same round", ["", "1", spread]),
        (f"memory a binding, of {memory['bindings']:,}, octets", ["", "", f"{memory['octets_a_binding']:,.0f}"]),
        (f"replay of {replay['bindings']:,} bindings to an empty server, s", ["", "", f"{replay['seconds']:.1f}"]),
    ]


def _fault_rows() -> list[Row]:
    faults = _load("faults")["faults"]

    def row(what: str, fault: str, *keys: str) -> Row:
        return what, ["", *(" / ".join(f"{faults[fault][name][key]:,}" for key in keys) for name in NAMES[1:])]

    calls = {name: f"{each['ubisip']['calls']:,}" for name, each in faults.items()}
    return [
        row("a server killed at 200 calls/s: worst post-dial delay, ms", "server-killed", "worst_pdd_ms"),
        row(f"calls above 100 ms then, of {calls['server-killed']}", "server-killed", "slow"),
        row(f"5 % of datagrams lost each way: calls at two servers, of {calls['loss']}", "loss", "twice"),
        row(f"SIGTERM with some 300 calls ringing: calls lost, of {calls['sigterm']}", "sigterm", "lost"),
        row(
            f"SIGKILL, back after 0.5 s: calls lost, of {calls['restart']} / forged responses relayed, of 20",
            "restart", "lost", "forged_relayed",
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    README.write_text(readme(), "utf-8")
