# SPDX-License-Identifier: Apache-2.0
"""docs/configuration.md is what its script writes, and leaves nothing out."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from ubisip.schema import Prefixed, field_kinds, unwrap
from ubisip.sections import Agents, Carrier, Gateway, Limits, Platform, Routing, Server, SipHealth, Store, Tier

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "configuration.md").read_text("utf-8")


def test_the_page_is_up_to_date() -> None:
    written = runpy.run_path(str(DOCS / "make_configuration.py"))["page"]()
    assert written == PAGE, "run python docs/make_configuration.py"


@pytest.mark.parametrize(
    "table",
    [Agents, Carrier, Gateway, Limits, Platform, Routing, Server, SipHealth, Store, Tier],
    ids=lambda t: t.__name__,
)
def test_every_key_is_explained(table: type[object]) -> None:
    for name, kind in field_kinds(table).items():
        prefixed = [mark for mark in unwrap(kind)[1] if isinstance(mark, Prefixed)]
        key = "on_EVENT" if prefixed else name
        rows = [line for line in PAGE.splitlines() if line.startswith(f"| `{key}` |")]
        assert rows, key
        assert all(row.split(" | ")[-1].strip(" |") for row in rows), f"{key} has no docstring"
