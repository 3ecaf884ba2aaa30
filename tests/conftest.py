# SPDX-License-Identifier: Apache-2.0
"""What every test shares: a deterministic hypothesis and the place of the torture messages."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "ubisip",
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
settings.load_profile("ubisip")
