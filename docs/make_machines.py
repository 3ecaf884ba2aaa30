# SPDX-License-Identifier: Apache-2.0
"""Write docs/machines.md and its pictures from the tables of ubisip/core/machines.

Run it as ``python docs/make_machines.py``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from ubisip.core.machines import HAPPENING_NAMES, MACHINE_NAMES, STATE_NAMES, table

DOCS = Path(__file__).parent
PAGE = DOCS / "machines.md"

Point = tuple[float, float]
Rows = dict[str, dict[str, tuple[str, tuple[str, ...]]]]
"""Of one machine: ``{state: {happening: (state afterwards, actions)}}``."""

CALLING = {("INVITE client", "Trying"): "Calling"}
"""The one state whose name in the RFC differs from that in the table."""
TIMERS = {
    "INVITE client": {"retransmit": "A", "timeout": "B", "Completed": "D", "Accepted": "M"},
    "non-INVITE client": {"retransmit": "E", "timeout": "F", "Completed": "K"},
    "INVITE server": {"retransmit": "G", "timeout": "H", "Confirmed": "I", "Accepted": "L"},
    "non-INVITE server": {"Completed": "J"},
}
"""The letters of RFC 3261 table 4 and RFC 6026: of the timers that run in several states, and of those that end one."""
SOURCES = {
    "INVITE client": "RFC 3261 section 17.1.1, figure 5, as RFC 6026 section 7.2 changes it",
    "non-INVITE client": "RFC 3261 section 17.1.2, figure 6",
    "INVITE server": "RFC 3261 section 17.2.1, figure 7, as RFC 6026 section 7.1 changes it",
    "non-INVITE server": "RFC 3261 section 17.2.2, figure 8",
}

HEADER = """\
<!-- Written by docs/make_machines.py from ubisip/core/machines; do not edit. -->
# The four state machines

What a transaction does is a table: (state, what happens) gives (next state, actions). The tables are in
`ext/ubisip/core/machines.pyx`; nothing there sends, sets a timer or logs: whoever asks does what the actions say.
This page and its pictures are drawn from those tables, and `tests/test_machines_page.py` compares every cell with the
RFCs. `TU`, the transaction user, is the proxy core: `request`, `forward`, `response`.

A dot: absorbed, nothing changes. An empty cell cannot happen: it would be counted as `wrong_events` and change nothing.
In the pictures only what is not absorbed is drawn.

"""

TIMER_TABLE = """\
## The timers

| timer | when it fires | value |
|---|---|---|
| T1 | | 500 ms towards carriers; `routing.t1` (default 100 ms) towards our own servers (RFC 3261 section 17.1.1.1) |
| T2, T4 | | 4 s, 5 s |
| A | INVITE is sent again | T1, doubling |
| B | no response to an INVITE | 64\\*T1 |
| C | an INVITE rings too long: the proxy core cancels it, and ends it 32 s later | `routing.timer_c` (default 185 s) |
| D | end of Completed of an INVITE client | 32 s |
| E | another request is sent again | T1, doubling up to T2; T2 after a provisional response |
| F | no final response to another request | 64\\*T1 |
| G | a failure response to an INVITE is sent again | 500 ms, doubling up to T2 |
| H | its ACK never came | 32 s |
| I | end of Confirmed | T4 |
| J | end of Completed of a non-INVITE server | 32 s |
| K | end of Completed of a non-INVITE client | T4 |
| L, M | end of Accepted (RFC 6026) | 32 s |

## Where we do otherwise than the RFC, and why

- **Timer B in Proceeding.** The RFC's INVITE client has no timer there, and Timer C (section 16.8) is the proxy's. One
  timer serves both: a provisional response turns B into C, and its end is the same cell.
- **A transport error does not end a client in Completed.** Figure 5 would: but a late ICMP error for an ACK must not
  make us forget a transaction whose peer still repeats its response.
- **A transport error ends no server.** RFC 6026 section 7.1 says so for INVITE; for other requests we do the same
  instead of figure 8: the client asks again.
- **Timer H tells nobody.** There is no ACK to wait for any more, and nothing that the proxy core could still do.
- **A 2xx goes up in every state of an INVITE server**, after a failure response too (section 16.7 step 5): a late
  answer of an attempt that had been given up is a call that somebody has picked up.
- **Over streams** timers A, E and G do not run, as the RFC has it. D, I, J and K keep their values, where it has 0:
  what comes late is still known.
- **100 Trying to an INVITE** comes after 150 ms, unless something better did, or at once when the INVITE is sent again
  (section 17.2.1 gives it 200 ms): the proxy core's wish, not the machine's.

"""


def rows_of(machine: str) -> Rows:
    """The cells of one machine, state by state in the order of the table."""
    rows: Rows = {}
    cells = table()
    for state in STATE_NAMES:
        found = {what: cells[machine, state, what] for what in HAPPENING_NAMES if (machine, state, what) in cells}
        if found:
            rows[state] = found
    return rows


def state_name(machine: str, state: str) -> str:
    return CALLING.get((machine, state), state)


def happening_name(machine: str, state: str, happening: str) -> str:
    """A happening as the RFC calls it: timers by their letter."""
    letters = TIMERS[machine]
    if happening == "timer A/E/G":
        return f"timer {letters['retransmit']}"
    if happening == "timer B/F/H":
        return "timer C" if (machine, state) == ("INVITE client", "Proceeding") else f"timer {letters['timeout']}"
    return f"timer {letters[state]}" if happening == "timer D/I/J/K/L/M" else happening


def action_name(machine: str, after: str, action: str) -> str:
    letters = TIMERS[machine]
    if action == "set D/I/J/K/L/M":
        return f"set {letters[after]}"
    kind = {"set A/E/G": "retransmit", "stop A/E/G": "retransmit", "set B/F/H": "timeout"}.get(action)
    return f"{action.split()[0]} {letters[kind]}" if kind else action


def actions_text(machine: str, after: str, actions: Sequence[str]) -> str:
    return ", ".join(action_name(machine, after, action) for action in actions)


def page() -> str:
    """The whole page."""
    parts = [_section(machine) for machine in MACHINE_NAMES]
    return HEADER + "\n".join(parts) + "\n" + TIMER_TABLE


def picture_name(machine: str) -> str:
    return f"machine-{machine.lower().replace(' ', '-')}.svg"


def _section(machine: str) -> str:
    rows = rows_of(machine)
    seen = [what for what in HAPPENING_NAMES if any(what in cells for cells in rows.values())]
    head = " | ".join(state_name(machine, state) for state in rows)
    lines = [f"| | {head} |", "|---|" + "---|" * len(rows)]
    lines += [f"| **{_row_name(machine, what, rows)}** | {_row(machine, what, rows)} |" for what in seen]
    picture = f"![{machine} transaction](images/{picture_name(machine)})"
    return f"## {machine}\n\n{SOURCES[machine]}.\n\n{picture}\n\n" + "\n".join(lines) + "\n"


def _row_name(machine: str, happening: str, rows: Rows) -> str:
    """All the names that a happening has in the states where it happens."""
    names = [happening_name(machine, state, happening) for state, cells in rows.items() if happening in cells]
    first, *others = dict.fromkeys(names)
    return first + "".join(f", {name.removeprefix('timer ')}" for name in others)


def _row(machine: str, happening: str, rows: Rows) -> str:
    return " | ".join(_cell(machine, state, cells.get(happening)) for state, cells in rows.items())


def _cell(machine: str, before: str, cell: tuple[str, tuple[str, ...]] | None) -> str:
    if cell is None:
        return " "
    after, actions = cell
    if after == before and not actions:
        return "."
    to = "" if after == before else f"**{state_name(machine, after)}**"
    return ": ".join(part for part in (to, actions_text(machine, after, actions)) if part)


# ---- the pictures

WIDTH, HEIGHT = 960, 500
BOX_WIDTH, BOX_HEIGHT = 124, 36
LINE = 14
LONGEST = 26
"""Characters of an arrow's text that stay on one line."""

PLACES: dict[str, dict[str, Point]] = {
    "INVITE client": {
        "Trying": (480, 50), "Proceeding": (480, 190), "Completed": (170, 330), "Accepted": (790, 330),
        "Terminated": (480, 460),
    },
    "non-INVITE client": {
        "Trying": (400, 50), "Proceeding": (400, 190), "Completed": (400, 330), "Terminated": (400, 460),
    },
    "INVITE server": {
        "Proceeding": (480, 50), "Completed": (280, 190), "Confirmed": (280, 330), "Accepted": (680, 190),
        "Terminated": (480, 460),
    },
    "non-INVITE server": {
        "Trying": (400, 50), "Proceeding": (400, 190), "Completed": (400, 330), "Terminated": (400, 460),
    },
}  # fmt: skip
RAISED = {("INVITE client", "Trying"), ("non-INVITE client", "Proceeding")}
"""States that an arrow leaves to the right: the text there stands above it."""
Arrow = tuple[Sequence[Point], Point, str]
ARROWS: dict[str, dict[tuple[str, str], Arrow]] = {
    "INVITE client": {
        ("Trying", "Proceeding"): ((), (488, 116), "start"),
        ("Trying", "Completed"): (((170, 50),), (178, 100), "start"),
        ("Trying", "Accepted"): (((790, 50),), (782, 100), "end"),
        ("Trying", "Terminated"): (((30, 50), (30, 460)), (38, 412), "start"),
        ("Proceeding", "Completed"): ((), (328, 276), "start"),
        ("Proceeding", "Accepted"): ((), (642, 276), "end"),
        ("Proceeding", "Terminated"): ((), (488, 360), "start"),
        ("Completed", "Terminated"): ((), (314, 404), "end"),
        ("Accepted", "Terminated"): ((), (650, 404), "start"),
    },
    "non-INVITE client": {
        ("Trying", "Proceeding"): ((), (408, 116), "start"),
        ("Trying", "Completed"): (((215, 50), (215, 330)), (207, 246), "end"),
        ("Trying", "Terminated"): (((50, 50), (50, 460)), (58, 412), "start"),
        ("Proceeding", "Completed"): ((), (408, 258), "start"),
        ("Proceeding", "Terminated"): (((660, 190), (660, 460)), (652, 412), "end"),
        ("Completed", "Terminated"): ((), (408, 392), "start"),
    },
    "INVITE server": {
        ("Proceeding", "Completed"): ((), (370, 106), "end"),
        ("Proceeding", "Accepted"): ((), (590, 106), "start"),
        ("Completed", "Confirmed"): ((), (288, 266), "start"),
        ("Completed", "Terminated"): (((60, 190), (60, 460)), (68, 420), "start"),
        ("Confirmed", "Terminated"): ((), (376, 408), "end"),
        ("Accepted", "Terminated"): ((), (586, 340), "start"),
    },
    "non-INVITE server": {
        ("Trying", "Proceeding"): ((), (408, 116), "start"),
        ("Trying", "Completed"): (((215, 50), (215, 330)), (207, 246), "end"),
        ("Proceeding", "Completed"): ((), (408, 258), "start"),
        ("Completed", "Terminated"): ((), (408, 392), "start"),
    },
}
"""Of every arrow between two states: the corners on its way, where its text stands, which end of the text that is."""


def picture(machine: str) -> str:
    """The state diagram as SVG."""
    arrows, stays = _changes(machine)
    body = [_arrow(machine, before, after, lines) for (before, after), lines in arrows.items()]
    body += [_box(machine, state) for state in PLACES[machine]]
    body += [_stay(machine, state, lines) for state, lines in stays.items()]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="Helvetica, Arial, sans-serif" font-size="12">\n'
        f"<title>{machine} transaction</title>\n"
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n' + "".join(body) + "</svg>\n"
    )


Changes = dict[tuple[str, str], list[str]]


def _changes(machine: str) -> tuple[Changes, dict[str, list[str]]]:
    """The texts on each arrow between two states, and beside each state those of what leaves it."""
    merged: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for state, cells in rows_of(machine).items():
        for happening, (after, actions) in cells.items():
            text = actions_text(machine, after, actions)
            if after != state or text:
                merged[state, after, text].append(happening_name(machine, state, happening))
    arrows: Changes = defaultdict(list)
    stays: dict[str, list[str]] = defaultdict(list)
    for (state, after, text), names in merged.items():
        line = f"{', '.join(names)}: {text}"
        if state == after:
            stays[state].append(line)
        else:
            arrows[state, after] += [line] if len(line) <= LONGEST else [f"{', '.join(names)}:", text]
    return arrows, stays


def _arrow(machine: str, before: str, after: str, lines: Sequence[str]) -> str:
    corners, place, anchor = ARROWS[machine][before, after]
    points = [PLACES[machine][before], *corners, PLACES[machine][after]]
    points[-1] = _border(points[-2], points[-1])
    way = " ".join(f"{x:g},{y:g}" for x, y in points)
    line = f'<polyline points="{way}" fill="none" stroke="#5b6b7b" stroke-width="1.4"/>\n'
    return line + _head(points[-2], points[-1]) + "".join(_text(lines, place, anchor, "#24292f"))


def _border(start: Point, centre: Point) -> Point:
    """Where a line from *start* to the centre of a box meets the box."""
    dx, dy = start[0] - centre[0], start[1] - centre[1]
    part = min(BOX_WIDTH / 2 / abs(dx) if dx else math.inf, BOX_HEIGHT / 2 / abs(dy) if dy else math.inf)
    return round(centre[0] + dx * part, 1), round(centre[1] + dy * part, 1)


def _head(start: Point, tip: Point) -> str:
    """An arrow's head, drawn out: markers are not shown everywhere."""
    angle = math.atan2(tip[1] - start[1], tip[0] - start[0])
    wings = [(tip[0] - 10 * math.cos(angle + turn), tip[1] - 10 * math.sin(angle + turn)) for turn in (-0.4, 0.4)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (tip, *wings))
    return f'<polygon points="{points}" fill="#5b6b7b"/>\n'


def _box(machine: str, state: str) -> str:
    x, y = PLACES[machine][state]
    colour = "#f3f4f6" if state == "Terminated" else "#dbeafe"
    return (
        f'<rect x="{x - BOX_WIDTH / 2:g}" y="{y - BOX_HEIGHT / 2:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="9"'
        f' fill="{colour}" stroke="#3b5b8c" stroke-width="1.4"/>\n'
        f'<text x="{x:g}" y="{y + 5:g}" text-anchor="middle" font-size="14" font-weight="bold" fill="#1e3a5f">'
        f"{state_name(machine, state)}</text>\n"
    )


def _stay(machine: str, state: str, lines: Sequence[str]) -> str:
    """What leaves the state as it is, to the right of its box."""
    x, y = PLACES[machine][state]
    above = (len(lines) - 1) * LINE
    place = (x + BOX_WIDTH / 2 + 8, y - above - 6 if (machine, state) in RAISED else y - above / 2 + 4)
    return "".join(_text([f"\N{CLOCKWISE OPEN CIRCLE ARROW} {line}" for line in lines], place, "start", "#6b4e00"))


def _text(lines: Sequence[str], place: Point, anchor: str, colour: str) -> Iterator[str]:
    """Lines of text; a white copy beneath keeps them apart from what they stand on."""
    for number, line in enumerate(lines):
        start = f'<text x="{place[0]:g}" y="{place[1] + number * LINE:g}" text-anchor="{anchor}"'
        yield f'{start} stroke="#ffffff" stroke-width="4">{escape(line)}</text>\n'
        yield f'{start} fill="{colour}">{escape(line)}</text>\n'


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    for each in MACHINE_NAMES:
        (DOCS / "images" / picture_name(each)).write_text(picture(each), "utf-8")
