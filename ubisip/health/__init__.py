# SPDX-License-Identifier: Apache-2.0
"""What is up: the health of destinations as pure state, and the probes that feed it (DESIGN section 7)."""

from ubisip.health.machine import Health, Sample, State, Transition, Verdict
from ubisip.health.monitor import Change, Monitor
from ubisip.health.options import Branches, Origin, options

__all__ = [
    "Branches",
    "Change",
    "Health",
    "Monitor",
    "Origin",
    "Sample",
    "State",
    "Transition",
    "Verdict",
    "options",
]
