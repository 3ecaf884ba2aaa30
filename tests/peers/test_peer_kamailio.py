# SPDX-License-Identifier: Apache-2.0
"""Kamailio as telephony server: two proxies in the route of each dialog, each with a Record-Route of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from processes import Child, Place, is_bound, wait_until

pytestmark = pytest.mark.skipif(shutil.which("kamailio") is None, reason="Kamailio is not installed")

CALLS = 20
ENDINGS = [("caller", "callee"), ("caller_hung_up_on", "callee_hangs_up")]
"""Scenarios of both ends: the caller hangs up, the callee does."""


def kamailio(place: Place) -> Child:
    """Kamailio at the place of the first server, its phone at the first other address."""
    (host, port), (phone, phone_port) = place.server(), place.other()
    text = Path(__file__).with_name("kamailio.cfg").read_text()
    text = text.replace("LISTEN", f"{host}:{port}").replace("PHONE", f"{phone}:{phone_port}")
    config = place.directory / "kamailio.cfg"
    config.write_text(text.replace("GATEWAY", place.gateway()[0]))
    work = str(place.directory)
    child = place.run("kamailio", ["kamailio", "-DD", "-f", str(config), "-m", "64", "-Y", work, "-w", work])
    wait_until(lambda: is_bound(place.server()) or not child.running, "Kamailio to listen")
    assert child.running, child.words()
    return child


@pytest.mark.parametrize(("caller", "callee"), ENDINGS, ids=["caller hangs up", "callee hangs up"])
def test_calls_from_the_carrier_through_kamailio_to_its_phone(place: Place, caller: str, callee: str) -> None:
    place.write(servers=1, carriers=1)
    server = kamailio(place)
    phone = place.answer(place.other(), callee)
    gateway = place.start_gateway()
    load = place.call(place.carrier(), place.gateway(), scenario=caller, rate=20, calls=CALLS, hold=0.1)
    figures = load.wait(40)
    assert (figures.good, figures.failed, figures.cut, figures.retransmissions) == (CALLS, 0, 0, 0), server.words()
    assert len(phone.calls()) == CALLS
    assert gateway.counter("ubisip_core_total", counter="bad_tokens") == 0
    wait_until(lambda: gateway.counter("ubisip_calls") == 0, "the gateway to know that all calls have ended")


@pytest.mark.parametrize(("caller", "callee"), ENDINGS, ids=["caller hangs up", "callee hangs up"])
def test_calls_from_a_phone_of_kamailio_to_the_carrier(place: Place, caller: str, callee: str) -> None:
    place.write(servers=1, carriers=1)
    server = kamailio(place)
    carrier = place.answer(place.carrier(), callee)
    gateway = place.start_gateway()
    load = place.call(place.other(), place.server(), scenario=caller, rate=20, calls=CALLS, hold=0.1)
    figures = load.wait(40)
    assert (figures.good, figures.failed, figures.cut, figures.retransmissions) == (CALLS, 0, 0, 0), server.words()
    assert len(carrier.calls()) == CALLS
    wait_until(lambda: gateway.counter("ubisip_calls") == 0, "the gateway to know that all calls have ended")
