# SPDX-License-Identifier: Apache-2.0
"""What every test shares: a deterministic hypothesis, and one more try for tests of real processes."""

from __future__ import annotations

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Real processes share the machine with whatever else runs: such a test may try twice, one that takes minutes three
    times, and the summary says so."""
    for item in items:
        if item.nodeid.startswith(REAL):
            item.add_marker(pytest.mark.flaky(reruns=2 if item.get_closest_marker("long") else 1))
