# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics, made at each scrape from the worker's counters: nothing is counted twice, nothing on the path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from ubisip.admin.face import GatewayFace
from ubisip.admin.tier_metrics import tier_families

DESTINATION = ["destination", "kind", "site"]
HEALTH = ["unknown", "up", "falling", "down", "rising", "degraded", "held"]
DROPPED = {
    "malformed_dropped": "malformed",
    "strangers_dropped": "stranger",
    "stranger_responses": "stranger_response",
    "forged_responses": "forged_response",
    "stray_responses": "stray_response",
}
"""The core's counters of dropped datagrams, and the cause that each is shown under."""
REGISTRATIONS = (
    "registered", "refreshed", "unregistered", "expired", "flows_lost", "challenged", "wrong_passwords",
    "tries_refused", "replays",
)  # fmt: skip
"""The core's counters of what became of REGISTERs and bindings."""
PER_DESTINATION = (
    ("ubisip_attempts", "attempts", "New calls sent to a destination, first tries and later ones."),
    ("ubisip_answered", "answered", "Calls that a destination answered with a 2xx."),
    ("ubisip_attempts_failed", "failed", "Attempts that ended without a 2xx."),
    ("ubisip_failovers", "failovers", "Attempts given up for the next destination."),
)


def registry_of(gateway: GatewayFace) -> CollectorRegistry:
    """A registry of one gateway: several may live in a process."""
    registry = CollectorRegistry()
    registry.register(GatewayCollector(gateway))
    ProcessCollector(registry=registry)
    return registry


class GatewayCollector(Collector):
    """Turns one reading of a gateway's statistics and status into metric families."""

    def __init__(self, gateway: GatewayFace) -> None:
        self._gateway = gateway

    def collect(self) -> Iterator[Metric]:
        statistics, status = self._gateway.statistics(), self._gateway.status()
        yield from _gateway_families(status)
        yield from _traffic(statistics)
        yield from _counted(statistics["counters"])
        yield from _destinations(status["destinations"])
        own = self._gateway.own_statistics()
        yield from _own(own, statistics["counters"].get("events_lost", 0))
        yield from _streams(own)
        yield from _agents(own, statistics["counters"])
        yield _worker_silence(self._gateway.silent_for())
        if self._gateway.tiers is not None:
            yield from tier_families(self._gateway.tiers.describe())


def _gateway_families(status: Mapping[str, Any]) -> Iterator[Metric]:
    labels = {key: str(status[key]) for key in ("platform", "environment", "node", "site", "version", "configuration")}
    info = GaugeMetricFamily("ubisip_info", "Which gateway this is, and what it runs.", labels=list(labels))
    info.add_metric(list(labels.values()), 1)
    yield info
    yield GaugeMetricFamily("ubisip_ready", "1 when new calls are taken.", value=float(status["state"] == "ready"))
    yield GaugeMetricFamily("ubisip_uptime_seconds", "Seconds since the gateway started.", value=status["uptime"])


def _traffic(statistics: Mapping[str, Any]) -> Iterator[Metric]:
    yield GaugeMetricFamily("ubisip_calls", "Calls established now.", value=statistics["calls"])
    yield GaugeMetricFamily("ubisip_calls_pending", "Calls in set-up now.", value=statistics["pending"])
    yield GaugeMetricFamily("ubisip_transactions", "Transactions alive now.", value=statistics["transactions"])
    yield GaugeMetricFamily("ubisip_memory_bytes", "Memory of the core's tables.", value=statistics["memory"])
    responses = CounterMetricFamily("ubisip_responses", "Responses forwarded or made, by class.", labels=["class"])
    for name, number in statistics["responses"].items():
        responses.add_metric([name], number)
    yield responses
    yield _post_dial_delay(statistics["pdd"])
    for name, number in statistics["worker"].items():
        unit = "_seconds" if name == "busy" else ""
        yield CounterMetricFamily(f"ubisip_worker_{name}{unit}", f"Of the worker thread: {name}.", value=number)


def _post_dial_delay(pdd: Mapping[str, Any]) -> Metric:
    """Prometheus counts cumulatively: each bucket holds those below it as well."""
    total, buckets = 0, []
    for upper, number in pdd["buckets"]:
        total += number
        buckets.append(("+Inf" if upper == float("inf") else repr(float(upper)), total))
    if not buckets or buckets[-1][0] != "+Inf":
        buckets.append(("+Inf", pdd["count"]))
    family = HistogramMetricFamily(
        "ubisip_post_dial_delay_seconds", "From the INVITE to the first response other than 100 sent back."
    )
    family.add_metric([], buckets, pdd["sum"])
    return family


def _counted(counters: Mapping[str, int]) -> Iterator[Metric]:
    """The core's counters: each under the one metric that its name belongs to."""
    yield CounterMetricFamily("ubisip_calls", "New calls taken.", value=counters.get("calls", 0))
    bounds = CounterMetricFamily("ubisip_bounds_hit", "Times a bound was reached.", labels=["bound"])
    dropped = CounterMetricFamily("ubisip_dropped", "Datagrams dropped, by cause.", labels=["cause"])
    shed = CounterMetricFamily("ubisip_shed", "New calls refused with 503, by reason.", labels=["reason"])
    others = CounterMetricFamily("ubisip_core", "Everything else that the core counts.", labels=["counter"])
    for name, number in counters.items():
        if name in DROPPED:
            dropped.add_metric([DROPPED[name]], number)
        elif name.startswith("bound_") or name == "outbox_overflow":
            bounds.add_metric([name.removeprefix("bound_").removesuffix("_overflow")], number)
        elif name.startswith("shed_"):
            shed.add_metric([name.removeprefix("shed_")], number)
        elif name not in ("calls", "events_lost", *REGISTRATIONS):
            others.add_metric([name], number)
    yield from (bounds, dropped, shed, others)


def _destinations(rows: list[Mapping[str, Any]]) -> Iterator[Metric]:
    for metric, key, text in PER_DESTINATION:
        family = CounterMetricFamily(metric, text, labels=["destination"])
        for row in rows:
            family.add_metric([row["name"]], row[key])
        yield family
    up = GaugeMetricFamily("ubisip_destination_up", "1 when health lets it take new calls.", labels=DESTINATION)
    weight = GaugeMetricFamily("ubisip_destination_weight", "Weight after its ramp.", labels=DESTINATION)
    calls = GaugeMetricFamily("ubisip_destination_calls", "Calls it carries now.", labels=DESTINATION)
    for row in rows:
        labels = [row["name"], row["kind"], row["site"]]
        up.add_metric(labels, float(row["usable"]))
        weight.add_metric(labels, row["weight"] * row["ramp"])
        calls.add_metric(labels, row["calls"])
    yield from (up, weight, calls, _health(rows), _switches(rows))


def _health(rows: list[Mapping[str, Any]]) -> Metric:
    family = GaugeMetricFamily("ubisip_destination_health", "1 for its health state.", labels=["destination", "state"])
    for row in rows:
        for state in HEALTH:
            family.add_metric([row["name"], state], float(row["state"] == state))
    return family


def _switches(rows: list[Mapping[str, Any]]) -> Metric:
    family = GaugeMetricFamily("ubisip_destination_switch", "1 for its switch.", labels=["destination", "switch"])
    for row in rows:
        family.add_metric([row["name"], row["switch"]], 1)
    return family


def _own(own: Mapping[str, Mapping[str, int]], lost_in_ring: int) -> Iterator[Metric]:
    texts = {
        "hook_failures": ("reason", "Calls for which a hook gave no usable answer in time."),
        "hook_answers": ("answer", "Calls that hooks were asked about."),
        "events_lost": ("place", "Events that found a queue full."),
        "control_errors": ("where", "Faults of the control loop; each is in the log."),
    }
    for name, (label, text) in texts.items():
        family = CounterMetricFamily(f"ubisip_{name}", text, labels=[label])
        for value, number in own[name].items():
            family.add_metric([value], number)
        if name == "events_lost":
            family.add_metric(["ring"], lost_in_ring)
        yield family


def _streams(own: Mapping[str, Mapping[str, int]]) -> Iterator[Metric]:
    """Connections of stream transports; without any such listener, none."""
    connections = GaugeMetricFamily(
        "ubisip_stream_connections", "Connections open now, by who opened them.", labels=["side"]
    )
    for side, number in own.get("connections", {}).items():
        connections.add_metric([side], number)
    events = CounterMetricFamily(
        "ubisip_streams", "What happened on stream connections, bounds reached included.", labels=["event"]
    )
    for event, number in own.get("streams", {}).items():
        events.add_metric([event], number)
    yield from (connections, events)


def _agents(own: Mapping[str, Mapping[str, int]], counters: Mapping[str, int]) -> Iterator[Metric]:
    """The registrar's; where there is none, none."""
    if "agents" not in own:
        return
    results = CounterMetricFamily("ubisip_registrations", "What became of REGISTERs and bindings.", labels=["result"])
    for name in REGISTRATIONS:
        if name in counters:
            results.add_metric([name], counters[name])
    lookups = CounterMetricFamily("ubisip_credentials", "Look-ups of agents' credentials.", labels=["result"])
    for name, number in own["credentials"].items():
        lookups.add_metric([name], number)
    yield from (results, lookups)
    texts = {
        "bindings": "Contacts registered here, counted once a minute.",
        "agents": "Agents with at least one of them.",
        "alive": "Bindings whose flow is not known to be gone.",
        "one_site": "Phones registered here that no other site reaches; missing while no other site says.",
    }
    for name, number in own["agents"].items():
        metric = name if name in ("bindings", "agents") else f"{'bindings' if name == 'alive' else 'agents'}_{name}"
        yield GaugeMetricFamily(f"ubisip_{metric}", texts[name], value=number)
    in_step = GaugeMetricFamily("ubisip_bindings_in_step", "Bindings that a server has.", labels=["destination"])
    for name, number in own["in_step"].items():
        in_step.add_metric([name], number)
    kept = GaugeMetricFamily("ubisip_bindings_kept_bytes", "Octets of bindings on disk, by file.", labels=["file"])
    for name in ("snapshot", "journal"):
        kept.add_metric([name], own["bindings_kept"][name])
    errors = own["bindings_kept"]["errors"]
    yield from (in_step, kept)
    yield from _sharing(own.get("sharing", {}))
    yield CounterMetricFamily("ubisip_bindings_kept_errors", "Writes of bindings to disk that failed.", value=errors)


def _sharing(sharing: Mapping[str, int]) -> Iterator[Metric]:
    """Of bindings that the gateways of a site share; none without store.soft."""
    if not sharing:
        return
    rows = CounterMetricFamily(
        "ubisip_bindings_shared_rows", "Bindings told to Redis, heard of, refused.", labels=["what"]
    )
    for name in ("told", "heard", "refused"):
        rows.add_metric([name], sharing[name])
    yield GaugeMetricFamily(
        "ubisip_bindings_shared", "Bindings of other gateways known here.", value=sharing["bindings"]
    )
    yield GaugeMetricFamily("ubisip_bindings_sharing", "Whether bindings are shared now.", value=int(sharing["up"]))
    yield rows
    yield CounterMetricFamily("ubisip_bindings_sharing_lost", "Times that Redis was lost.", value=sharing["lost"])


def _worker_silence(seconds: float) -> Metric:
    return GaugeMetricFamily("ubisip_worker_silence_seconds", "Seconds since the worker's last turn.", value=seconds)
