# SPDX-License-Identifier: Apache-2.0
"""A real gateway: jobs report to it over HTTP, HAProxy asks it for itself and for members of its tiers."""

from __future__ import annotations

import signal
import socket
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Place, wait_until
from tiers.daemons_common import Yard, free_port
from tiers.daemons_haproxy import Haproxy
from tiers.gateways import AGENT_PORT, gateways_with, member_states, post

TIERS = """
[tiers.jobs]
kind = "push"
interval = 0.1
fast_interval = 0.1
fall = 1
rise = 1
parameters = {{ fail_after = 3600.0, record_file = "jobs.json" }}
members = [{{ name = "nightly", site = "PA2", address = "the export of the night" }}]

[tiers.web]
kind = "tcp"
interval = 0.1
fast_interval = 0.1
members = [
  {{ name = "web1", site = "PA2", address = "127.0.0.1:{open}" }},
  {{ name = "web2", site = "PA5", address = "127.0.0.1:{shut}" }},
]
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    one = Place(tmp_path)
    yield one
    one.close()


@pytest.fixture
def yard() -> Iterator[Yard]:
    one = Yard()
    yield one
    one.close()


def test_jobs_report_and_haproxy_asks(place: Place, yard: Yard) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        (gateway,) = gateways_with(place, TIERS.format(open=server.getsockname()[1], shut=free_port()))
        reports(place)
        assert post(place, "/api/v1/push/jobs/nightly")["outcome"] == "ok"
        wait_until(lambda: member_states(gateway, "jobs") == {"nightly": "up"}, "the success to count")
        post(place, "/api/v1/push/jobs/nightly", {"outcome": "failed", "text": "disk full"})
        wait_until(lambda: member_states(gateway, "jobs") == {"nightly": "down"}, "the failure to count")
        assert "disk full" in gateway.get("/api/v1/tiers")
        assert "disk full" in (place.directory / "jobs.json").read_text()

        host = place.gateway()[0]
        agent = f"weight 100 agent-check agent-addr {host} agent-port {AGENT_PORT} agent-inter 100ms"
        lines = [f'{name} 127.0.0.1:1 {agent} agent-send "web/{name}\\n"' for name in ("web1", "web2")]
        proxy = Haproxy(yard, "web", [*lines, f"gw1 127.0.0.1:2 {agent}"])
        wait_until(lambda: proxy.status()["web2"] == "DOWN (agent)", "HAProxy to hear that web2 is down")
        assert proxy.status()["web1"] == proxy.status()["gw1"] == "no check"
        wait_until(lambda: proxy.effective_weights()["web1"] == 100, "web1 to have its whole weight")
        assert proxy.effective_weights()["gw1"] == 100, "a gateway without calls has all of its room"
        gateway.signal(signal.SIGKILL)
        wait_until(lambda: gateway.exit_code() is not None, "the gateway to be gone")
        assert (proxy.status()["web2"], proxy.status()["gw1"]) == ("DOWN (agent)", "no check"), (
            "silence changes nothing"
        )


def reports(place: Place) -> None:
    """Who is no job, or what is no report, is refused by its fault."""
    for path, body, status in (
        ("/api/v1/push/jobs/nobody", None, 404),
        ("/api/v1/push/web/web1", None, 404),
        ("/api/v1/push/nowhere/nightly", None, 404),
        ("/api/v1/push/jobs/nightly", {"outcome": "splendid"}, 400),
        ("/api/v1/push/jobs/nightly", {"text": 5}, 400),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(place, path, body)
        assert refused.value.code == status
