# SPDX-License-Identifier: Apache-2.0
"""Write docs/health.md from the table and the constants of ubisip/health.

Run it as ``python docs/make_health.py``.
"""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from pathlib import Path

from ubisip.health import machine, monitor, observer
from ubisip.health.evidence import SLOW
from ubisip.health.machine import TABLE, USABLE, Cell, Count, Damping, Event, State, Verdict

PAGE = Path(__file__).parent / "health.md"
EVENTS: tuple[Event, ...] = (*Verdict, *Damping)
THRESHOLD = {Count.RISE: "rise", Count.FALL: "fall"}

MEANING = {
    State.UNKNOWN: "nothing is known yet; the first pass makes it UP, without a ramp",
    State.UP: "it answers",
    State.DEGRADED: f"it answers slowly: {machine.DEGRADED_WEIGHT:.0%} of its weight",
    State.FALLING: "it failed, fewer than `fall` times in a row",
    State.DOWN: "it failed `fall` times in a row, or was in maintenance",
    State.RISING: "it passes again, fewer than `rise` times in a row",
    State.HELD: "it went up and down too often",
}

SOURCE = {
    Verdict.PASS: "a probe brought a final response other than 408 and 503",
    Verdict.WARN: f"the same, but it took more than {SLOW:.0%} of `timeout`",
    Verdict.FAIL: "a probe brought 408, 503, an ICMP error or nothing in `timeout`",
    Verdict.SERVED: "attempts of real calls brought a response other than 503",
    Verdict.LOST: "an attempt was refused (ICMP), silent for `first_response_timeout`, or got 503 without Retry-After",
    Verdict.BUSY: "503 with Retry-After: it rests exactly that long, whatever its state",
    Verdict.INCONCLUSIVE: "whoever observed cannot tell",
    Damping.SUPPRESS: f"a crossing brought the penalty to {machine.SUPPRESS:.0f}",
    Damping.REUSE: f"the penalty has decayed to {machine.REUSE:.0f}",
}


def page() -> str:
    """The whole page."""
    return f"""\
<!-- Written by docs/make_health.py from ubisip/health; do not edit. -->
# Health of a destination

Every gateway judges every carrier and telephony server for itself, by OPTIONS probes and by what its own calls meet.
The judgement and the operator's switch (`ready`, `drain`, `maintenance`) are two separate things; new calls go where
both allow it. Parameters in `code` are those of `[health.sip]` in the configuration file.

{_states()}
{_diagram()}
{_evidence()}
{_table()}
{_wrapped(_rules())}
{_wrapped(_self_doubt())}
{_wrapped(_schedule())}"""


def _wrapped(text: str) -> str:
    """The same with each item and paragraph, whatever its numbers, filled to the width of the other pages."""
    lines: list[str] = []
    for line in text.splitlines():
        if lines and line and lines[-1] and not line.startswith(("-", "#", "|")) and lines[-1][0] not in "#|":
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    return "\n".join(line if line.startswith("|") else _filled(line) for line in lines) + "\n"


def _filled(line: str) -> str:
    return textwrap.fill(line, 120, subsequent_indent="  " if line.startswith("-") else "", break_on_hyphens=False)


def _states() -> str:
    rows = (
        f"| {state.name} | {'yes' if state in USABLE else 'no'} | {meaning} |\n" for state, meaning in MEANING.items()
    )
    return f"## States\n\n| state | new calls | meaning |\n|---|---|---|\n{''.join(rows)}"


def _diagram() -> str:
    arrows: dict[tuple[State, State], list[str]] = defaultdict(list)
    for (state, event), cell in TABLE.items():
        for after, label in _outcomes(event, cell):
            if after is not state:
                arrows[state, after].append(label)
    lines = (f"    {before.name} --> {after.name}: {', '.join(labels)}\n" for (before, after), labels in arrows.items())
    return f"```mermaid\nstateDiagram-v2\n    [*] --> UNKNOWN\n{''.join(lines)}```\n"


def _outcomes(event: Event, cell: Cell) -> list[tuple[State, str]]:
    """Where a cell leads, and what that arrow is called."""
    name = event.value
    if cell.below is cell.reached:
        return [(cell.below, name)]
    return [(cell.below, name), (cell.reached, f"{THRESHOLD[cell.counters]} x {name}")]


def _evidence() -> str:
    rows = (f"| {event.value} | {text} |\n" for event, text in SOURCE.items())
    return f"## Evidence\n\n| event | when |\n|---|---|\n{''.join(rows)}"


def _table() -> str:
    head = "".join(f" {event.value} |" for event in EVENTS)
    rows = "".join(f"| **{state.name}** |{''.join(_cell(state, event) for event in EVENTS)}\n" for state in State)
    return (
        "## Every cell\n\nA dot: nothing changes. `A / B`: A, or B once `rise` passes or `fall` failures in a row are"
        f" reached.\n\n| |{head}\n|---|{'---|' * len(EVENTS)}\n{rows}"
    )


def _cell(state: State, event: Event) -> str:
    cell = TABLE[state, event]
    if cell.below is cell.reached:
        return " . |" if cell.below is state else f" {cell.below.name} |"
    return f" {cell.below.name} / {cell.reached.name} |"


def _rules() -> str:
    longest = machine.HALF_LIFE * math.log2((machine.SUPPRESS + machine.PENALTY) / machine.REUSE)
    return f"""\
## Rules that a table cannot show

- **Real traffic speaks only where calls are sent.** In DOWN, RISING and HELD, probes alone decide; elsewhere a
  call that was served clears the failures before it.
- **One moment is one failure.** Silences and 503s within {machine.MOMENT * 1000:.0f} ms count once: 200 calls
  lost in 10 ms are one event, and one event is not `fall` failures. Refusals count each, since the peer's own
  host makes them: after `fall` of them the server is DOWN, within milliseconds. A silent server that gets calls
  is DOWN {machine.MOMENT * 1000:.0f} ms after its first silence with `fall = 2`: at 200 calls/s none is sent to
  it later than 1.25 s after it fell silent.
- **Old news is no news.** Silence about a request from before the last recovery, or from before later calls
  were served, is a lost datagram and counts for nothing. A probe's pass excuses no call: who answers OPTIONS
  and is silent to INVITE is out of order.
- **A rest** (503 with Retry-After) is not a failure. It ends at its time, at most {machine.MAX_REST:.0f} s
  later; a later answer may lengthen it, not shorten it; the operator's `ready` ends it.
- **The ramp.** After DOWN the weight starts at 10 % and gains a tenth every tenth of `slow_start`. A
  destination that never was DOWN has no ramp, so a gateway that starts chooses as its neighbours do.
- **Flapping.** Each crossing between usable and not usable adds {machine.PENALTY:.0f}; the sum halves every
  {machine.HALF_LIFE:.0f} s. A crossing that brings it to {machine.SUPPRESS:.0f} ends in HELD; it is left at
  {machine.REUSE:.0f}, at most {longest:.0f} s later, then by `rise` passes in a row. The operator's `ready`
  forgets the penalty.
- **Maintenance** stops the probes and forgets what was known; afterwards `rise` passes and the ramp, as after
  DOWN.
- **Nothing usable in a kind** is told as panic; the core then tries them all.
"""


def _self_doubt() -> str:
    return f"""\
## When a gateway distrusts itself

A sick observer may suspect (FALLING), it may not condemn (DOWN): the sample that would is inconclusive.

- **Lag.** The control loop woke more than {observer.LAG_LIMIT * 1000:.0f} ms late: for as long again (at most
  `timeout`), time-outs and slow answers prove nothing. Refusals and responses still do.
- **Unrelated destinations fail at once.** Those of one kind at one site are a group, for one switch or power
  supply takes them down together; a group fails when more than half of its usable members do. Silence is
  doubted when more than half of the groups fail among those that failed or were heard since, when all sites of
  the kind fail, or when nobody at all was heard since the destination began to fail. A refusal is doubted when
  more than half of all groups fail.
- What was sent while we doubted proves nothing later. Doubt lasts as long as nobody answers; once somebody
  does, we hear, and one round (`interval` + `timeout`) later those still silent are taken at their word. Until
  then those in doubt are asked at `fast_interval` for {monitor.PATIENCE:.0f} s, afterwards at `interval`.
- With one group alone there is nothing to compare with: it is believed.

The first failure of a destination calls the witnesses: whoever has not been heard since is probed at once.
"""


def _schedule() -> str:
    return f"""\
## Probes

| state | interval |
|---|---|
| UNKNOWN, UP, DEGRADED | `interval` |
| FALLING, RISING, and witnesses | `fast_interval` |
| DOWN, HELD | `down_interval` |

Intervals run from one sending to the next; one that outlasted its interval is followed at once. Each comes up
to {monitor.SPREAD:.0%} early, by the names of gateway and destination and the round, so that probes spread out.
All are sent at once when the gateway starts. A result that gets lost costs one `timeout` and one `interval`.
"""


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
