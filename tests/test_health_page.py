# SPDX-License-Identifier: Apache-2.0
"""docs/health.md is drawn from the table that runs."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_is_up_to_date() -> None:
    written = runpy.run_path(str(DOCS / "make_health.py"))["page"]()
    assert written == (DOCS / "health.md").read_text("utf-8"), "run python docs/make_health.py"
