# SPDX-License-Identifier: Apache-2.0
"""A place of its own for each test that runs real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Addresses and a folder; what runs there is killed at the end."""
    one = Place(tmp_path)
    yield one
    one.close()
