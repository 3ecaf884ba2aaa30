# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics of the other tiers, made from what ``GET /api/v1/tiers`` answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

MEMBER = ["tier", "member", "site"]
USABLE = ("up", "degraded", "falling")


def tier_families(answer: Mapping[str, Any]) -> Iterator[Metric]:
    """Who leads, the verdicts, the members, the plans."""
    yield GaugeMetricFamily("ubisip_leader", "1 while this gateway leads.", value=float(answer["leads"]))
    yield GaugeMetricFamily("ubisip_store_up", "1 when the store answers.", value=float(not answer["store"]))
    yield GaugeMetricFamily("ubisip_paused", "1 while automatic action is paused.", value=float(bool(answer["paused"])))
    yield GaugeMetricFamily("ubisip_notices_open", "Notices that are not settled.", value=len(answer["notices"]))
    yield from _verdicts(answer["tiers"])
    yield from _members(answer["tiers"])
    yield from _plans(answer)


def _verdicts(tiers: list[Mapping[str, Any]]) -> Iterator[Metric]:
    verdict = GaugeMetricFamily("ubisip_tier_verdict", "1 for the verdict on a tier.", labels=["tier", "verdict"])
    healthy = GaugeMetricFamily("ubisip_tier_healthy", "1 when nothing is the matter with it.", labels=["tier"])
    for tier in tiers:
        verdict.add_metric([tier["name"], tier["verdict"]], 1)
        healthy.add_metric([tier["name"]], float(tier["healthy"]))
    yield from (verdict, healthy)


def _members(tiers: list[Mapping[str, Any]]) -> Iterator[Metric]:
    up = GaugeMetricFamily("ubisip_tier_member_up", "1 when this gateway finds that it serves.", labels=MEMBER)
    problem = GaugeMetricFamily("ubisip_tier_member_problem", "1 when an operator must act.", labels=MEMBER)
    state = GaugeMetricFamily("ubisip_tier_member_state", "1 for its state.", labels=["tier", "member", "state"])
    for tier in tiers:
        for one in tier["members"]:
            labels = [tier["name"], one["name"], one["site"]]
            up.add_metric(labels, float(one["state"] in USABLE))
            problem.add_metric(labels, float(bool(one["problem"])))
            state.add_metric([tier["name"], one["name"], one["state"]], 1)
    yield from (up, problem, state)


def _plans(answer: Mapping[str, Any]) -> Iterator[Metric]:
    running = GaugeMetricFamily("ubisip_plans_running", "Plans that run now.", value=len(answer["running"]))
    ended = CounterMetricFamily("ubisip_plans", "Plans that ended here, by result.", labels=["tier", "result"])
    for row in answer["counted"]:
        ended.add_metric([row["tier"], row["result"]], row["plans"])
    yield from (running, ended)
