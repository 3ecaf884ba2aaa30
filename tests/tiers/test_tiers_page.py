# SPDX-License-Identifier: Apache-2.0
"""docs/tiers.md is what its script writes, explains every parameter, and its examples are taken."""

from __future__ import annotations

import dataclasses
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ubisip import plugins

DOCS = Path(__file__).parents[2] / "docs"
SCRIPT = runpy.run_path(str(DOCS / "make_tiers.py"))
NOTES = [
    *((plugins.PROBES, name) for name in SCRIPT["PROBES"]),
    *((plugins.ACTIONS, name) for name in SCRIPT["ACTION_NOTES"]),
    *((plugins.SINKS, name) for name in SCRIPT["SINK_NOTES"]),
]
ELSEWHERE = "mariadb"
"""How the names of those begin that docs/databases.md explains."""


def test_the_page_is_up_to_date() -> None:
    assert SCRIPT["page"]() == (DOCS / "tiers.md").read_text("utf-8"), "run python docs/make_tiers.py"


@pytest.mark.parametrize("group", [plugins.PROBES, plugins.ACTIONS, plugins.SINKS])
def test_no_plug_in_is_left_out(group: str) -> None:
    ours = {name for name, point in plugins.found(group).items() if point.value.startswith("ubisip.")}
    assert {name for name in ours if not name.startswith(ELSEWHERE)} == {name for it, name in NOTES if it == group}


@pytest.mark.parametrize(("group", "name"), NOTES)
def test_every_parameter_is_explained(group: str, name: str) -> None:
    table = SCRIPT["parameters_of"](plugins.load(group, name))
    docs = SCRIPT["docs_by_field"](table)
    assert not [field.name for field in dataclasses.fields(table) if not docs[field.name]]


@pytest.mark.parametrize(("group", "name"), NOTES)
def test_every_example_is_taken(group: str, name: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("Zm91ciBzY29yZQ==")
    plugin = plugins.load(group, name)
    if group == plugins.PROBES:
        given = tomllib.loads(SCRIPT["PROBES"][name].example)
        assert given["kind"] == name and given["members"]
        plugin(_with_files(given.get("parameters", {}), tmp_path / "none"))
        return
    notes = SCRIPT["ACTION_NOTES" if group == plugins.ACTIONS else "SINK_NOTES"]
    ((section, given),) = next(iter(tomllib.loads(notes[name].example).values())).items()
    assert given.pop("type", section) == name
    parameters = _with_files(given, secret)
    plugin(parameters) if group == plugins.ACTIONS else plugin(parameters, tmp_path)


def _with_files(given: dict[str, Any], file: Path) -> dict[str, Any]:
    return {key: str(file) if key.endswith("_file") else value for key, value in given.items()}
