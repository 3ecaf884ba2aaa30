# SPDX-License-Identifier: Apache-2.0
"""What the command line shows to people, as rich tables made from the admin side's JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ubisip.config import Config

NUMBERS = ("weight", "calls", "attempts", "answered", "failed", "failovers")
COLOURS = {
    "up": "green",
    "ready": "green",
    "unknown": "dim",
    "falling": "yellow",
    "rising": "yellow",
    "degraded": "yellow",
    "drain": "yellow",
    "draining": "yellow",
    "held": "magenta",
    "maintenance": "magenta",
    "down": "red",
}


def platform_view(status: Mapping[str, Any]) -> RenderableType:
    """A line on the gateway and on what it does not believe, a table of its destinations, a line of totals."""
    rows = _destinations(status["destinations"])
    return Group(_heading(status), *_reservations(status), rows, _totals(status["totals"]))


def configuration_view(config: Config) -> RenderableType:
    """A line on the platform, a table of what stands in it."""
    table = Table(header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("kind", "name", "site", "address", "weight"):
        table.add_column(name, no_wrap=True, justify="right" if name == "weight" else "left")
    for gateway in config.gateways:
        table.add_row("gateway", gateway.name, gateway.site, ", ".join(map(str, gateway.listen)), "")
    for kind, peers in (("carrier", config.carriers), ("server", config.servers)):
        table.add_section()
        for peer in peers:
            site = f"{peer.site} ({peer.centre})" if peer.centre else peer.site
            table.add_row(kind, peer.name, site, peer.uri, str(peer.weight))
    heading = Text.assemble(
        (config.path, "bold"),
        f": no mistakes; {config.platform.name} ({config.platform.environment}), ",
        f"sites {', '.join(config.sites)}, policy {config.routing.policy}",
    )
    return Group(heading, table)


def agents_view(rows: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]) -> RenderableType:
    """A table of bindings, those of an agent together, and a line for each gateway that was asked."""
    table = Table(header_style="underline", box=None, padding=(0, 1, 0, 0))
    for name in ("agent", "gateway", "flow", "address", "age", "left", "trip", "servers"):
        table.add_column(name, overflow="fold", no_wrap=name in ("flow", "age", "left", "trip"))
    before = ""
    for row in rows:
        table.add_row(row["aor"] if row["aor"] != before else "", *_binding(row))
        before = row["aor"]
    return Group(table, *(_agent_totals(answer) for answer in answers))


def _binding(row: Mapping[str, Any]) -> list[str | Text]:
    trip = "" if row["round_trip"] is None else f"{row['round_trip'] * 1000:.0f} ms"
    address = f"{row['listener'].partition(':')[0]}:{row['address']}"
    return [
        f"{row['gateway']} ({row['site']})",
        str(row["reg_id"] or ""),
        Text(address if row["alive"] else f"{address} (gone)", style="" if row["alive"] else "red"),
        duration(row["age"]),
        duration(row["expires"]),
        trip,
        _servers(row),
    ]


def _servers(row: Mapping[str, Any]) -> str | Text:
    """Which servers know the binding: their number when all do, else who does not."""
    if row["out_of_step"]:
        return Text(f"not {', '.join(row['out_of_step'])}", style="yellow")
    return f"all {len(row['in_step'])}" if row["in_step"] else ""


def _agent_totals(answer: Mapping[str, Any]) -> Text:
    totals = answer["totals"]
    one_site = "" if "one_site" not in totals else f", {totals['one_site']} phones through {answer['site']} only"
    more = "; more than are shown" if answer["more"] else ""
    numbers = f"{totals['bindings']} bindings of {totals['agents']} agents"
    shared = _sharing(answer["sharing"]) if answer.get("sharing") else ""
    return Text.assemble((answer["gateway"], "bold"), f" at {answer['site']}: {numbers}{one_site}{more}", shared)


def _sharing(sharing: Mapping[str, Any]) -> Text:
    """What the gateway knows of the bindings of others, and through whom it does not."""
    text = Text(f", {sharing['bindings']} of other gateways")
    if sharing["away"] is not None:
        text.append(f", not shared for {duration(sharing['away'])}", style="yellow")
    if sharing["silent"]:
        text.append(f", silent: {', '.join(sharing['silent'])}", style="yellow")
    return text


def _heading(status: Mapping[str, Any]) -> Text:
    return Text.assemble(
        (status["node"], "bold"),
        f" at {status['site']} of {status['platform']} ({status['environment']}), ",
        _coloured(status["state"]),
        f", up {duration(status['uptime'])}, listening on {', '.join(status['listeners'])}",
    )


def _reservations(status: Mapping[str, Any]) -> Iterator[Text]:
    """Why the states of the table are not the whole story."""
    if status["doubt"]:
        why = status["doubt"]
        yield Text(f"it distrusts what it sees ({why}): meanwhile it takes nobody else for down", style="yellow")
    for kind in status["panic"]:
        yield Text(f"no {kind} looks usable: all that are switched to ready are tried", style="red")


def _destinations(rows: list[Mapping[str, Any]]) -> Table:
    """One group of rows for each site's servers and each carrier centre; it fits into eighty columns."""
    table = Table(header_style="underline", box=None, padding=(0, 1, 0, 0))
    table.add_column("destination", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in NUMBERS:
        table.add_column(name, justify="right", no_wrap=True)
    before: tuple[str, str] | None = None
    for row in rows:
        if (group := (f"{row['site']} {row['kind']}s", row["centre"])) != before:
            table.add_row(*(Text(word, style="bold") for word in group))
        before = group
        table.add_row(*_cells(row))
    return table


def _cells(row: Mapping[str, Any]) -> list[str | Text]:
    state = _coloured(row["state"])
    if row["switch"] != "ready":
        state = Text.assemble(state, ", ", _coloured(row["switch"]))
    weight = f"{row['weight'] * row['ramp']:.0f}"
    return [f"  {row['name']}", state, weight, *(str(row[key]) for key in NUMBERS[1:])]


def _totals(totals: Mapping[str, Any]) -> Text:
    return Text(
        f"{totals['calls']} calls now, {totals['pending']} in set-up, {totals['taken']} taken, "
        f"{totals['failovers']} failovers, {totals['transactions']} transactions, {totals['memory'] / 2**20:.1f} MiB"
    )


def _coloured(word: str) -> Text:
    return Text(word, style=COLOURS.get(word, ""))


def duration(seconds: float) -> str:
    """Seconds in the two largest units that are not zero: ``3 d 4 h``, ``12 min 5 s``, ``7 s``."""
    left, parts = int(seconds), list[str]()
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number or (unit == "s" and not parts):
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2])
