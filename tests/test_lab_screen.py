# SPDX-License-Identifier: Apache-2.0
"""What the demo shows each second."""

from __future__ import annotations

import io
import json
from dataclasses import replace

from rich.console import Console

from ubisip.lab.platform import LabPlatform
from ubisip.lab.screen import PartSecond, Second, line, record, table

EVENTS = tuple(
    (second, f"pa2-tel{second} killed: a telephony server, with the calls that it carried") for second in range(1, 7)
)


def second(gateways: int = 2) -> Second:
    platform = LabPlatform.build(gateways)
    kinds = (("sbc", platform.sbcs), ("gateway", platform.gateways), ("server", platform.servers))
    parts = tuple(
        PartSecond(part.name, kind, part.site, "degraded", 1234, 100) for kind, parts in kinds for part in parts
    )
    return Second(
        second=6,
        duration=60.0,
        parts=parts,
        placed=123456,
        new=50,
        in_progress=12345,
        answered=123456,
        ended=120000,
        failed=12,
        lost=3,
        agents=200,
        at_both_sites=187,
        at_one_site=12,
        cut=40,
        worst=2.0041,
        p99=0.0049,
        events=EVENTS,
        news=(EVENTS[-1][1],),
    )


def drawn(value: Second, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=24)
    console.print(table(value))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_the_table_fits_a_terminal_of_80_by_24() -> None:
    lines = drawn(second())
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert not any("…" in text for text in lines)


def test_the_table_names_every_part_and_the_latest_events() -> None:
    text = "\n".join(drawn(second(gateways=4)))
    for part in second(gateways=4).parts:
        assert part.name in text
    assert "pa2-tel6 killed" in text and "pa2-tel1 killed" not in text
    assert "123,456" in text and "2,004 ms" in text and "4.9 ms" in text
    assert "200 agents" in text and "187 agents" in text


def test_a_line_tells_counts_delays_and_the_events_of_its_second() -> None:
    text = line(second())
    assert "123456 calls, 50 new, 12345 in progress, 123456 answered, 12 failed, 3 lost" in text
    assert "187 of 200 agents at both sites" in text
    assert "worst 2,004 ms, p99 4.9 ms; pa2-tel6 killed" in text
    assert "pa2-tel5 killed" not in text


def test_the_record_is_json_with_delays_in_milliseconds() -> None:
    fields = json.loads(json.dumps(record(replace(second(), events=((5, "past"), (6, "now")), news=("now",)))))
    assert (fields["worst_delay_ms"], fields["p99_delay_ms"], fields["events"]) == (2004.1, 4.9, ["now"])
    assert (fields["agents"], fields["at_both_sites"], fields["at_one_site"]) == (200, 187, 12)
    assert fields["parts"][0] == {
        "name": "sbc-1", "kind": "sbc", "site": "PA2", "state": "degraded", "calls": 1234, "new": 100
    }  # fmt: skip
