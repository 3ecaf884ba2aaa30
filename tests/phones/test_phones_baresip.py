# SPDX-License-Identifier: Apache-2.0
"""Baresip as an agent's phone: registered with both sites by its own outbound, called, hung up on.

That of Debian 12 (libre 1) gives up when any challenge is for another algorithm than MD5: its user has an HA1 for MD5
alone, so that no other is offered.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from processes import Child, wait_until
from site_parts import REALM, USERS, Sites

MODULES = next(Path("/usr/lib").glob("**/baresip/modules"), None)
pytestmark = pytest.mark.skipif(not (shutil.which("baresip") and MODULES), reason="baresip is not installed")

CONFIG = """\
sip_listen {host}:5060
audio_player aubridge,nil
audio_source aubridge,nil
audio_alert aubridge,nil
module_path {modules}
module g711.so
module aubridge.so
module_tmp uuid.so
module_tmp account.so
module_app menu.so
"""


def baresip(sites: Sites, user: str, transport: str) -> Child:
    """A baresip that answers by itself."""
    host = sites.place.other(150)[0]
    folder = sites.place.directory / "baresip"
    folder.mkdir()
    (folder / "config").write_text(CONFIG.format(host=host, modules=MODULES))
    first, second = sites.proxies(transport)
    account = f"<sip:{user}@{REALM};transport={transport}>;auth_user={user};auth_pass={USERS[user]};regint=600"
    account += f';sipnat=outbound;outbound="{first}";outbound2="{second}";answermode=auto'
    (folder / "accounts").write_text(account + "\n")
    (folder / "contacts").touch()
    return sites.place.run("baresip", ["baresip", "-4", "-f", str(folder), "-s"])


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_it_is_registered_with_both_sites_and_takes_calls(sites: Sites, transport: str) -> None:
    sites.write()
    ha1 = hashlib.md5(f"1001:{REALM}:{USERS['1001']}".encode(), usedforsecurity=False).hexdigest()
    sites.users.write_text(f"1001;{REALM};{ha1}\n")
    sites.start()
    phone = baresip(sites, "1001", transport)
    wait_until(lambda: sites.knows("1001", 2) or not phone.running, "all servers to know both flows")
    assert phone.running, phone.words()
    place = sites.place
    for number in (1, 2):
        load = place.call(place.carrier(number), place.gateway(number), number="1001", hold=0.2)
        figures = load.wait(30)
        assert (figures.good, figures.failed, figures.cut) == (1, 0, 0), phone.words()
