# SPDX-License-Identifier: Apache-2.0
"""One second of a simulated platform, as a table for people, a line for logs, a dictionary for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ubisip.admin.tables import COLOURS
from ubisip.lab.platform import SITES

SHOWN_EVENTS = 4
"""Latest events under the table."""
COLUMNS = ("calls", "new/s")


@dataclass(frozen=True, slots=True)
class PartSecond:
    """What one SBC, gateway or server did in a second."""

    name: str
    kind: str
    """``sbc``, ``gateway`` or ``server``."""
    site: str
    state: str
    """``killed``, ``starting``, else what the gateways say of it; of a gateway ``ready``."""
    calls: int
    """In progress."""
    new: int
    """Placed or taken in this second."""


@dataclass(frozen=True, slots=True)
class Second:
    """The platform after one more second; all counts are since the start unless said otherwise."""

    second: int
    duration: float
    parts: tuple[PartSecond, ...]
    placed: int
    new: int
    """Placed in this second."""
    in_progress: int
    answered: int
    ended: int
    failed: int
    lost: int
    agents: int
    """Agents' phones."""
    at_both_sites: int
    """Phones registered with both sites."""
    at_one_site: int
    cut: int
    """Calls carried by a server at the moment it was killed."""
    worst: float
    """Worst post-dial delay of this second, in seconds; 0 when no call rang."""
    p99: float
    """Its 99th percentile."""
    events: tuple[tuple[int, str], ...]
    """Second and text of what happened so far."""
    news: tuple[str, ...]
    """What happened since the second before."""


def record(second: Second) -> dict[str, Any]:
    """For ``--json``: only this second's events, delays in milliseconds."""
    fields = asdict(second)
    fields["events"] = fields.pop("news")
    fields["worst_delay_ms"] = round(1000 * fields.pop("worst"), 1)
    fields["p99_delay_ms"] = round(1000 * fields.pop("p99"), 1)
    return fields


def line(second: Second) -> str:
    """For an output that is no terminal."""
    news = "".join(f"; {text}" for text in second.news)
    return (
        f"{second.second:3} s: {second.placed} calls, {second.new} new, {second.in_progress} in progress, "
        f"{second.answered} answered, {second.failed} failed, {second.lost} lost; "
        f"{second.at_both_sites} of {second.agents} agents at both sites; post-dial delay "
        f"worst {_milliseconds(second.worst)}, p99 {_milliseconds(second.p99)}{news}"
    )


def table(second: Second) -> RenderableType:
    """For a terminal of 80 columns and 24 lines."""
    return Group(_heading(second), _parts(second), Text(""), _totals(second), Text(""), *_events(second))


def _heading(second: Second) -> Text:
    kinds = [sum(part.kind == kind for part in second.parts) for kind in ("sbc", "gateway", "server")]
    what = "{} SBCs, {} gateways, {} servers, {} agents".format(*kinds, second.agents)
    clock = f"{second.second} of {second.duration:.0f} s"
    return Text.assemble(("ubisip", "bold cyan"), f"  {what}   ", (clock, "bold"))


def _parts(second: Second) -> Table:
    """Both sites side by side, one row for each pair of parts."""
    grid = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False, padding=(0, 1))
    for number, site in enumerate(SITES):
        if number:
            grid.add_column("")
        grid.add_column(site, width=9, no_wrap=True)
        grid.add_column("", width=9, no_wrap=True)
        for name in COLUMNS:
            grid.add_column(name, justify="right", no_wrap=True)
    for kind in ("sbc", "gateway", "server"):
        rows = [[part for part in second.parts if part.site == site and part.kind == kind] for site in SITES]
        for pair in zip_longest(*rows):
            cells = [cell for part in pair for cell in ("", *_cells(part))]
            grid.add_row(*cells[1:])
        grid.add_section()
    return grid


def _cells(part: PartSecond | None) -> tuple[str | Text, ...]:
    if part is None:
        return ("", "", "", "")
    style = "bold red" if part.state == "killed" else COLOURS.get(part.state, "yellow")
    return (part.name, Text(part.state, style), str(part.calls), str(part.new))


def _totals(second: Second) -> Table:
    grid = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    bad = {"failed": second.failed, "lost": second.lost}
    counts = {"calls": second.placed, "in progress": second.in_progress, "answered": second.answered, **bad}
    cells = [Text(f"{value:,}", "bold red" if name in bad and value else "bold") for name, value in counts.items()]
    for name in counts:
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("both sites", justify="right", no_wrap=True)
    everybody = second.at_both_sites == second.agents
    cells.append(Text(f"{second.at_both_sites} agents", "bold" if everybody else "bold yellow"))
    for name, delay in (("PDD worst", second.worst), ("PDD p99", second.p99)):
        grid.add_column(name, justify="right", no_wrap=True)
        cells.append(Text(_milliseconds(delay), "bold yellow" if delay > 1 else "bold"))
    grid.add_row(*cells)
    return grid


def _events(second: Second) -> list[Text]:
    latest = [Text(f"{when:4} s  {text}") for when, text in second.events[-SHOWN_EVENTS:]]
    return latest


def _milliseconds(seconds: float) -> str:
    if not seconds:
        return "-"  # no call rang in this second
    return f"{1000 * seconds:,.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.1f} ms"
