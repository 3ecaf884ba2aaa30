# SPDX-License-Identifier: Apache-2.0
"""Baresip as telephony server: it answers a call and it places one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from processes import Child, Place, is_bound, wait_until

MODULES = next(Path("/usr/lib").glob("**/baresip/modules"), None)
pytestmark = pytest.mark.skipif(not (shutil.which("baresip") and MODULES), reason="baresip is not installed")

CONFIG = """\
sip_listen {host}:{port}
audio_player aubridge,nil
audio_source aubridge,nil
audio_alert aubridge,nil
module_path {modules}
module g711.so
module aubridge.so
module_app account.so
module_app menu.so
"""


def baresip(place: Place, *options: str) -> Child:
    """A baresip at the place of the first server that answers by itself and registers nowhere."""
    host, port = place.server()
    folder = place.directory / "baresip"
    folder.mkdir()
    (folder / "config").write_text(CONFIG.format(host=host, port=port, modules=MODULES))
    (folder / "accounts").write_text(f"<sip:phone@{host}:{port}>;regint=0;answermode=auto\n")
    (folder / "contacts").touch()
    child = place.run("baresip", ["baresip", "-4", "-f", str(folder), *options])
    wait_until(lambda: is_bound(place.server()) or not child.running, "baresip to listen")
    assert child.running, child.words()
    return child


def test_it_answers_a_call_from_the_carrier(place: Place) -> None:
    place.write(servers=1, carriers=1)
    place.start_gateway()
    phone = baresip(place)
    figures = place.call(place.carrier(), place.gateway(), number="phone", calls=2, rate=1, hold=0.5).wait(30)
    assert (figures.good, figures.failed, figures.cut) == (2, 0, 0), phone.words()


@pytest.mark.parametrize("callee", ["callee", "callee_hangs_up"])
def test_it_places_a_call_to_the_carrier(place: Place, callee: str) -> None:
    """It hangs up when it ends, or is hung up on."""
    place.write(servers=1, carriers=1)
    carrier = place.answer(place.carrier(), callee)
    gateway = place.start_gateway()
    host, port = place.gateway()
    phone = baresip(place, "-e", f"/dial sip:+33155500001@{host}:{port}", "-t", "3")
    wait_until(lambda: not phone.running, "baresip to end")
    wait_until(lambda: len(carrier.ended()) == 1, "the carrier to see the end of the call", 5)
    assert len(carrier.calls()) == 1
    assert gateway.counter("ubisip_calls") == 0
