# SPDX-License-Identifier: Apache-2.0
"""Plug-ins, found by their entry points: probes, policies, actions, sinks (DESIGN section 9)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

from ubisip.errors import UsageError

PROBES = "ubisip.probes"
"""By a tier's kind: a factory ``(parameters) -> Probe``, see ubisip.health.probe."""
POLICIES = "ubisip.policies"
"""By a tier's kind, DEFAULT for all others: a Policy, see ubisip.failover.verdict."""
ACTIONS = "ubisip.actions"
"""By the name in a rule: a factory ``(parameters) -> Action``, see ubisip.failover.action."""
SINKS = "ubisip.sinks"
"""By the name of a section: a factory ``(parameters, state_dir) -> Sink``, see ubisip.failover.action."""
SOFT = "ubisip.soft"
"""By the scheme of `store.soft`: a factory ``(url, platform, site) -> SoftStore``, see ubisip.store.soft."""
DEFAULT = "default"


@cache
def found(group: str) -> Mapping[str, EntryPoint]:
    """The entry points of *group* by name; nothing is imported yet."""
    return MappingProxyType({point.name: point for point in sorted(entry_points(group=group), key=lambda it: it.name)})


def load(group: str, name: str) -> Any:
    """The object behind an entry point.

    :raises UsageError: there is none of this name, or it cannot be imported: a driver is missing.
    """
    points = found(group)
    if name not in points:
        raise UsageError(f"no plug-in {name!r} in {group}; there are: {', '.join(points) or 'none'}")
    try:
        return points[name].load()
    except (ImportError, AttributeError) as error:
        raise UsageError(f"the plug-in {name!r} of {group} cannot be loaded: {error}") from error


def policy(kind: str) -> Any:
    """The policy for tiers of *kind*."""
    return load(POLICIES, kind if kind in found(POLICIES) else DEFAULT)
