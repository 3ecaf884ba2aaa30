# SPDX-License-Identifier: Apache-2.0
"""Parse the 735-octet INVITE: the core alone, and beside parsers that Python users know."""

from __future__ import annotations

import asyncio

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench import messages
from bench.parsers import PARSERS
from ubisip.core.message import parse_many

INVITE = messages.invite(1)
EXPECTED = ("INVITE", "0123456789", "00000001-10421@127.0.60.2", 1, "c00000001", "", "z9hG4bK-00000001-1")


@pytest.mark.parametrize("name", PARSERS)
def test_parse_and_read(name: str, benchmark: BenchmarkFixture) -> None:
    benchmark.group = "parse the INVITE and read seven values, from Python"
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # aiosip makes a Future of each request
    try:
        assert benchmark(PARSERS[name], INVITE) == EXPECTED
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_parse_in_the_core(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "parse the INVITE of 735 octets, in the core"
    benchmark.extra_info["per"] = 1000
    assert len(INVITE) == 735
    benchmark(parse_many, INVITE, 1000)
