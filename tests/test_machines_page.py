# SPDX-License-Identifier: Apache-2.0
"""The four state machines, cell by cell, against RFC 3261 section 17 and RFC 6026; docs/machines.md is drawn from them.

RFC is written down here from the figures and the text of the RFCs, OURS is what docs/machines.md says we do otherwise.
A state of the RFC that shows nothing for a happening absorbs it: "" is a cell in which nothing is done.
"""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path

import pytest
from ubisip.core.machines import HAPPENING_NAMES, MACHINE_NAMES, STATE_NAMES, table

DOCS = Path(__file__).parents[1] / "docs"
RETRANSMIT, TIMEOUT, WAIT = "timer A/E/G", "timer B/F/H", "timer D/I/J/K/L/M"
SET_WAIT = "set D/I/J/K/L/M"
AGAIN = "send, set A/E/G"
FAILED = "-> Terminated tell TU, end"
END = "-> Terminated end"

Cells = dict[str, dict[str, str]]
"""Of one machine ``{state: {happening: "-> next state, then actions"}}``; without an arrow the state stays."""

RFC: dict[str, Cells] = {
    "INVITE client": {  # RFC 3261 17.1.1.2 figure 5; RFC 6026 7.2: a 2xx leads to Accepted, with Timer M
        "Trying": {
            "1xx": "-> Proceeding tell TU, stop A/E/G",
            "2xx": f"-> Accepted tell TU, stop A/E/G, {SET_WAIT}",
            "300-699": f"-> Completed send ACK, tell TU, stop A/E/G, {SET_WAIT}",
            RETRANSMIT: AGAIN,
            TIMEOUT: FAILED,
            "transport error": FAILED,
        },
        "Proceeding": {
            "1xx": "tell TU",
            "2xx": f"-> Accepted tell TU, {SET_WAIT}",
            "300-699": f"-> Completed send ACK, tell TU, {SET_WAIT}",
            "transport error": "",
        },
        "Completed": {"1xx": "", "2xx": "", "300-699": "send ACK", WAIT: END, "transport error": FAILED},
        "Accepted": {"1xx": "", "2xx": "tell TU", "300-699": "", WAIT: END, "transport error": ""},
    },
    "non-INVITE client": {  # RFC 3261 17.1.2.2 figure 6; Timer E goes on after a provisional response
        "Trying": {
            "1xx": "-> Proceeding tell TU",
            "2xx": f"-> Completed tell TU, stop A/E/G, {SET_WAIT}",
            "300-699": f"-> Completed tell TU, stop A/E/G, {SET_WAIT}",
            RETRANSMIT: AGAIN,
            TIMEOUT: FAILED,
            "transport error": FAILED,
        },
        "Proceeding": {
            "1xx": "tell TU",
            "2xx": f"-> Completed tell TU, stop A/E/G, {SET_WAIT}",
            "300-699": f"-> Completed tell TU, stop A/E/G, {SET_WAIT}",
            RETRANSMIT: AGAIN,
            TIMEOUT: FAILED,
            "transport error": FAILED,
        },
        "Completed": {"1xx": "", "2xx": "", "300-699": "", WAIT: END, "transport error": ""},
    },
    "INVITE server": {  # RFC 3261 17.2.1 figure 7; RFC 6026 7.1: Accepted with Timer L, and no end by a transport error
        "Proceeding": {
            "request again": "send",
            "ACK": "",
            "TU sends 1xx": "send",
            "TU sends 2xx": f"-> Accepted send, {SET_WAIT}",
            "TU sends 300-699": "-> Completed send, set A/E/G, set B/F/H",
            "transport error": "",
        },
        "Completed": {
            "request again": "send",
            "ACK": f"-> Confirmed stop A/E/G, {SET_WAIT}",
            "TU sends 1xx": "",
            "TU sends 2xx": "",
            "TU sends 300-699": "",
            RETRANSMIT: AGAIN,
            TIMEOUT: FAILED,
            "transport error": "",
        },
        "Confirmed": {
            "request again": "",
            "ACK": "",
            "TU sends 1xx": "",
            "TU sends 2xx": "",
            "TU sends 300-699": "",
            WAIT: END,
            "transport error": "",
        },
        "Accepted": {
            "request again": "",
            "ACK": "tell TU",
            "TU sends 1xx": "",
            "TU sends 2xx": "send",
            "TU sends 300-699": "",
            WAIT: END,
            "transport error": "",
        },
    },
    "non-INVITE server": {  # RFC 3261 17.2.2 figure 8
        "Trying": {
            "request again": "",
            "TU sends 1xx": "-> Proceeding send",
            "TU sends 2xx": f"-> Completed send, {SET_WAIT}",
            "TU sends 300-699": f"-> Completed send, {SET_WAIT}",
            "transport error": "",
        },
        "Proceeding": {
            "request again": "send",
            "TU sends 1xx": "send",
            "TU sends 2xx": f"-> Completed send, {SET_WAIT}",
            "TU sends 300-699": f"-> Completed send, {SET_WAIT}",
            "transport error": FAILED,
        },
        "Completed": {
            "request again": "send",
            "TU sends 1xx": "",
            "TU sends 2xx": "",
            "TU sends 300-699": "",
            WAIT: END,
            "transport error": FAILED,
        },
    },
}

OURS: dict[tuple[str, str, str], str] = {
    ("INVITE client", "Proceeding", TIMEOUT): FAILED,  # Timer C, which the RFC gives to the proxy core (16.8)
    ("INVITE client", "Completed", "transport error"): "",
    ("INVITE server", "Completed", "TU sends 2xx"): "send",  # 16.7 step 5: a late 2xx always goes up
    ("INVITE server", "Confirmed", "TU sends 2xx"): "send",
    ("INVITE server", "Completed", TIMEOUT): END,
    ("non-INVITE server", "Proceeding", "transport error"): "",
    ("non-INVITE server", "Completed", "transport error"): "",
}


def in_words(before: str, cell: tuple[str, tuple[str, ...]] | None) -> str | None:
    """A cell of the core's table as it is written here; None: it cannot happen."""
    if cell is None:
        return None
    after, actions = cell
    text = ", ".join(actions)
    return text if after == before else f"-> {after} {text}"


def test_the_names_are_those_of_the_core() -> None:
    assert set(RFC) == set(MACHINE_NAMES)
    used = {state for cells in RFC.values() for state in cells}
    assert used | {"Terminated"} == set(STATE_NAMES)
    assert {what for cells in RFC.values() for row in cells.values() for what in row} == set(HAPPENING_NAMES)


@pytest.mark.parametrize("machine", MACHINE_NAMES)
def test_every_cell(machine: str) -> None:
    cells = table()
    for state, what in itertools.product(STATE_NAMES, HAPPENING_NAMES):
        expected = OURS.get((machine, state, what), RFC[machine].get(state, {}).get(what))
        found = in_words(state, cells.get((machine, state, what)))
        assert found == expected, f"{machine}, {state}: {what}"


@pytest.mark.parametrize("cell", OURS, ids=", ".join)
def test_what_we_do_otherwise_is_otherwise(cell: tuple[str, str, str]) -> None:
    machine, state, what = cell
    assert OURS[cell] != RFC[machine][state].get(what)


@pytest.mark.parametrize("machine", MACHINE_NAMES)
def test_nothing_leads_out_of_terminated_and_every_state_leads_to_it(machine: str) -> None:
    leads: dict[str, set[str]] = {state: set() for state in STATE_NAMES}
    for (of, state, _), (after, _) in table().items():
        if of == machine:
            leads[state].add(after)
    assert not leads["Terminated"]
    for state in RFC[machine]:
        reached = {state}
        while new := {after for one in reached for after in leads[one]} - reached:
            reached |= new
        assert "Terminated" in reached, state


def test_the_page_is_up_to_date() -> None:
    written = runpy.run_path(str(DOCS / "make_machines.py"))["page"]()
    assert written == (DOCS / "machines.md").read_text("utf-8"), "run python docs/make_machines.py"


@pytest.mark.parametrize("machine", MACHINE_NAMES)
def test_the_pictures_are_up_to_date(machine: str) -> None:
    made = runpy.run_path(str(DOCS / "make_machines.py"))
    file = DOCS / "images" / made["picture_name"](machine)
    assert made["picture"](machine) == file.read_text("utf-8"), "run python docs/make_machines.py"
