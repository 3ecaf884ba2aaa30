# SPDX-License-Identifier: Apache-2.0
"""Two sites of their own for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Place
from site_parts import Sites


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    """A platform whose parts are not started yet; what runs is killed at the end."""
    if shutil.which("kamailio") is None:
        pytest.skip("Kamailio is not installed")
    place = Place(tmp_path)
    yield Sites(place)
    place.close()
