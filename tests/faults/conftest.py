# SPDX-License-Identifier: Apache-2.0
"""A place of its own for each test that runs real processes, and the figures that it tells."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Place
from tiers.mariadb_rig import make_template, missing
from tiers.mariadb_world import World


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


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory that every MariaDB server begins with."""
    if missing():
        pytest.skip(f"{missing()} is not installed")
    return make_template(tmp_path_factory.mktemp("mariadb"))


@pytest.fixture
async def new_world(place: Place, template: Path) -> AsyncIterator[Callable[..., Awaitable[World]]]:
    """Makes and starts a database tier with what watches over it; *parameters* are those of World."""
    worlds: list[World] = []

    async def make(**parameters: Any) -> World:
        worlds.append(World(place, template, **parameters))
        await worlds[-1].start()
        return worlds[-1]

    yield make
    for world in worlds:
        print(world.told())
        await world.close()
