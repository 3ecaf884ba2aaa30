# SPDX-License-Identifier: Apache-2.0
"""docs/performance.md, written from bench/results/*.json: every figure there was measured, none is typed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import plot

RESULTS = Path(__file__).resolve().parent / "results"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
PICTURE = PAGE.with_suffix(".svg")
AGENTS_PICTURE = PAGE.with_name("performance-agents.svg")

TITLES = {
    "relay": "bare relay, parses nothing",
    "kamailio": "Kamailio, stateful, tlsf",
    "kamailio-qm": "Kamailio, stateful, qm (its default)",
    "ubisip": "**ubisip**",
}

REGISTRARS = {"kamailio": "Kamailio, registrar, usrloc in memory, tlsf", "ubisip": "**ubisip**"}

FAULTS = {
    "server-killed": ("One of six servers is killed at 200 calls/s, 2,000 calls", {
        "lost": "calls without an answer",
        "worst_pdd_ms": "worst post-dial delay, ms",
        "slow": "calls with more than 100 ms",
    }),
    "loss": ("5 % of the datagrams lost on each side, each way, 2,000 calls", {
        "lost": "calls without an answer",
        "twice": "calls that reached two servers",
        "twice_and_not_cancelled": "of these, never cancelled",
    }),
    "sigterm": ("SIGTERM with some 300 calls ringing, 100 calls/s, 500 calls", {
        "lost": "calls without an answer",
        "seconds_to_exit": "seconds until it had ended",
    }),
    "restart": ("SIGKILL at 50 calls/s, started again after 0.5 s, 500 calls", {
        "lost": "calls lost, ringing, answered or new",
        "twice": "calls set up twice",
        "forged_relayed": "forged responses relayed, of 20",
    }),
}  # fmt: skip


def load(name: str) -> dict[str, Any]:
    """The results file *name*; empty when it was not measured yet."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table: the first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def sidebyside_section(results: Mapping[str, Any]) -> str:
    names = list(results["summary"])
    head = ["candidate", "CPU us a call", *(f"/ {base}" for base in names if base != "ubisip"), "memory MiB"]
    head += ["delay p50 ms", "p99 ms", "failed", "sent again"]
    rows = []
    for name in names:
        one = results["summary"][name]
        if "us_per_call" not in one:
            rows.append([TITLES[name], f"void in {one['void']} of {one['rounds']} rounds", *[""] * (len(head) - 2)])
            continue
        ratios = [_ratio(one, base, name) for base in names if base != "ubisip"]
        plain = [f"{one[key]:.0f}" for key in ("pdd_p50_ms", "pdd_p99_ms", "failed", "retransmissions")]
        rows.append([TITLES[name], f"{one['us_per_call']:.1f}", *ratios, f"{one['pss_mib']:.1f}", *plain])
    return SIDEBYSIDE.format(**results["load"], rounds=len(results["rounds"])) + "\n" + markdown(head, rows)


def _ratio(one: Mapping[str, Any], base: str, name: str) -> str:
    if base == name:
        return "1"
    ratio = one["ratios"][base]
    return f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" if ratio else ""


def instructions_section(results: Mapping[str, Any]) -> str:
    rows = [[TITLES[name], f"{value:,.0f}"] for name, value in results["instructions_per_call"].items()]
    return INSTRUCTIONS + "\n" + markdown(["candidate", "instructions a call"], rows)


def faults_section(results: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(name for figures in results["faults"].values() for name in figures))
    rows = []
    for fault, figures in results["faults"].items():
        title, keys = FAULTS[fault]
        rows.append([f"**{title}**", *[""] * len(names)])
        for key, words in keys.items():
            rows.append([words, *(_number(figures[name][key]) if name in figures else "" for name in names)])
    return FAULTS_TEXT + "\n" + markdown(["what breaks", *names], rows)


def register_section(results: Mapping[str, Any]) -> str:
    rows = []
    for name in ("kamailio", "ubisip"):
        one = results["summary"][name]
        if "us_per_registration" not in one:
            rows.append([REGISTRARS[name], f"void in {one['void']} of {one['rounds']} rounds", "", ""])
            continue
        ratio = results["summary"]["ratio"] if name == "ubisip" else None
        spread = f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" if ratio else ""
        rows.append([REGISTRARS[name], f"{one['us_per_registration']:.1f}", spread, f"{one['pss_mib']:.1f}"])
    head = ["registrar", "CPU us a registration", "/ Kamailio", "memory MiB"]
    memory, replay = results["memory"], results["replay"]
    kept = [
        [f"memory a binding, octets, with {memory['bindings']:,}", _number(memory["octets_a_binding"])],
        ["the same of phones with +sip.instance and reg-id", _number(memory["octets_a_flow"])],
        [f"seconds of a replay to an empty server, {replay['bindings']:,} bindings", f"{replay['seconds']:.1f}"],
    ]
    text = REGISTER.format(**results["load"], rounds=len(results["rounds"]), picture=AGENTS_PICTURE.name)
    return f"{text}\n{markdown(head, rows)}\n{markdown(['a gateway with agents', ''], kept)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2f}"


def micro_section(results: Mapping[str, Any]) -> str:
    text = MICRO
    for group in dict.fromkeys(one["group"] for one in results["benchmarks"]):
        rows = [[one["name"], nanoseconds(one)] for one in results["benchmarks"] if one["group"] == group]
        text += f"\n{group[0].upper()}{group[1:]}:\n\n" + markdown(["", "median"], rows)
    return text


def nanoseconds(one: Mapping[str, Any]) -> str:
    """The median of a benchmark for one unit of its work."""
    value = float(one["median_ns"])
    return f"{value:,.0f} ns" if value < 10_000 else f"{value / 1000:,.1f} us"


def machine_section(sidebyside: Mapping[str, Any]) -> str:
    rows = [[key, value] for key, value in sidebyside["machine"].items()]
    rows.append(["load average before", f"{sidebyside['load_average_before']:.2f}"])
    day = sidebyside["when"][:10]
    return f"## The machine\n\nMeasured {day}.\n\n" + markdown(["", ""], rows).replace("---:", "---")


def write() -> None:
    """Draw the picture and write the page from what was measured.

    :raises RuntimeError: the side-by-side comparison was never measured.
    """
    sidebyside, instructions = load("sidebyside"), load("callgrind")
    if not sidebyside:
        raise RuntimeError("there are no results of the side-by-side comparison: run python -m bench sidebyside")
    plot.draw(sidebyside, instructions.get("instructions_per_call", {}), PICTURE)
    if register := load("register"):
        plot.draw_agents(register, AGENTS_PICTURE)
    parts = [HEAD, sidebyside_section(sidebyside)]
    for name, section in [
        ("register", register_section),
        ("callgrind", instructions_section),
        ("faults", faults_section),
        ("micro", micro_section),
    ]:
        results = load(name)
        if results:
            parts.append(section(results))
    parts += [machine_section(sidebyside), NOTES]
    PAGE.write_text("\n".join(parts))


HEAD = """# Performance

Everything on this page was measured by `make bench`, which starts and stops all that it needs and writes this page;
no figure is typed by hand. The raw results are in `bench/results/`.

![CPU time, memory and instructions for each call](performance.svg)
"""

SIDEBYSIDE = """## Side by side

{rate:,} calls/s over UDP from one caller to six servers (SIPp), {calls:,} calls a round, {rounds} rounds; each call is
INVITE, 180, 200, ACK, BYE, 200, and a 100 where the candidate sends one at once. One worker each, alone on one
processor; SIPp has the other. Every round runs all candidates in turn, and the ratios are those within a round: median
(least to most).

    python -m bench.sidebyside --rate {rate} --calls {calls} --rounds {rounds} relay kamailio ubisip
"""

REGISTER = """## Agents

{rate:,} registrations/s over UDP, {registrations:,} a round by {users:,} agents, {rounds} rounds: REGISTER, 401,
REGISTER with credentials, 200; not mirrored. One worker each, alone on one processor; the ratio is that within a round.
The memory of a binding is what a whole gateway grows by, the list of credentials and their digests included.

![CPU time a registration, memory a binding]({picture})

    python -m bench.register
"""

INSTRUCTIONS = """## Instructions of our own code

Counted by valgrind within the functions that take a message and fire a timer; the kernel is not in it. 50
calls at 10 calls/s; ubisip's share includes the ticks of its timers between them, which a busy gateway has fewer of for
each call. The mood of the machine plays no part.

    python -m bench.callgrind kamailio ubisip
"""

FAULTS_TEXT = """## What calls notice when something breaks

One run each, with SIPp as caller and as servers.

    python -m bench.faults
"""

MICRO = """## Parts

pytest-benchmark, the median; for one message (a call for the whole call). What goes through `Engine` includes its
Python face: a call, a copy of the datagram and an object for each datagram sent, which the worker thread of a gateway
does without.

    python -m pytest bench
"""

NOTES = """## How to read it

- CPU time is the scheduler's own account of all threads (`/proc/PID/task/TID/schedstat`), the control thread included;
  on loopback the sender also pays for the delivery, so most of every figure is the kernel's, and the bare relay shows
  how much.
- A round is void when the rate was not reached, more than 0.1 % of the calls failed, or more than 0.1 % of the requests
  were sent again; void rounds are counted, and left out of the medians.
- Memory is the proportional set size at the end of the load. Kamailio's share includes the pool it was given
  (`-m 1024`), as far as it was touched.
- Kamailio runs with the `tlsf` allocator; its default one (`qm`) is made for debugging and far slower.
- SIPp measures delays in whole milliseconds and wakes every few: read them as "no worse than the relay's".
"""
