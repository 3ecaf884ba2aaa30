# SPDX-License-Identifier: Apache-2.0
"""What every test shares: a deterministic hypothesis, one more try for tests of real processes, and who of
several workers runs what."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "ubisip",
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
settings.load_profile("ubisip")

REAL = tuple(
    f"tests/{name}"
    for name in (
        *("agents/test_credentials_databases.py", "agents/test_registrar_", "faults/", "peers/", "phones/"),
        *("rfc/test_streams.py", "test_lab", "test_demo", "test_gateway", "test_ocf_agent"),
        *("tiers/test_store", "tiers/test_tier_admin", "tiers/test_probes", "tiers/test_actions", "tiers/test_sinks"),
        *("tiers/test_agent_check", "tiers/test_gateway_reports"),
    )
)

GROUPS: Sequence[tuple[str, tuple[str, ...]]] = (
    ("calls", ("tests/faults/", "tests/peers/", "tests/phones/", "tests/rfc/test_streams.py", "tests/test_demo",
               "tests/test_examples", "tests/test_gateway", "tests/test_lab", "tests/test_ocf_agent")),
    ("daemons", ("tests/agents/", "tests/tiers/")),
)  # fmt: skip
"""What one worker does in sequence where several share the tests (``make test``): whose delays are measured, who bind
the same addresses. Both wait more than they compute. Tests of any other file may run beside them."""


def _group(nodeid: str) -> tuple[int, str]:
    """Its rank and name: the long groups begin, what fills the gaps comes after them."""
    for rank, (name, starts) in enumerate(GROUPS):
        if nodeid.startswith(starts):
            return rank, name
    return len(GROUPS), nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out whole groups in the order of their ranks; xdist's own loadgroup does nothing with pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)[1]

    config.option.loadscopereorder = False
    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Real processes share the machine with whatever else runs: such a test may try twice, one that takes minutes three
    times, and the summary says so."""
    for item in items:
        if item.nodeid.startswith(REAL):
            item.add_marker(pytest.mark.flaky(reruns=2 if item.get_closest_marker("long") else 1))
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: _group(item.nodeid)[0])
