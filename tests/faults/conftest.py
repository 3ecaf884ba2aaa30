# SPDX-License-Identifier: Apache-2.0
"""A place of its own for each test that runs real processes, and the figures that it tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Addresses and a folder; what runs there is killed at the end."""
    one = Place(tmp_path)
    yield one
    one.close()


@pytest.fixture
def record(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Iterator[dict[str, float]]:
    """What a test measured: told with -s or -rP, and in the JUnit file."""
    figures: dict[str, float] = {}
    yield figures
    for name, value in figures.items():
        record_property(name, value)
    told = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    print(f"\n{request.node.name}: {told}")
