# SPDX-License-Identifier: Apache-2.0
"""Browser phones over WSS: SIP.js registered with both sites, JsSIP with one; they call each other and are heard."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser_parts import Browser, BrowserPhone, bundle, open_browser
from processes import wait_until
from site_parts import REALM, Sites

PORT = 8443


@pytest.fixture
def browser(sites: Sites, pytestconfig: pytest.Config) -> Iterator[Browser]:
    """A browser whose page holds the phones' libraries; those are kept in the cache of the test run."""
    script = bundle(pytestconfig.cache.mkdir("browser-phones"))
    with open_browser(sites, script) as one:
        yield one


def talk(caller: BrowserPhone, callee: BrowserPhone, uri: str) -> None:
    """A call that is answered, and heard by both; the callee ends it."""
    caller.does(f'call("{uri}")')
    callee.has("state", "incoming")
    callee.does("answer()")
    caller.has("state", "established")
    callee.has("state", "established")
    caller.hears_the_other()
    callee.hears_the_other()
    callee.does("hangUp()")
    caller.has("state", "ended")
    callee.has("state", "ended")


def test_browsers_register_over_wss_and_talk(sites: Sites, browser: Browser) -> None:
    sites.write(f"wss:HOST:{PORT}", servers=(1, 4))
    sites.start()
    servers = [f"wss://{sites.place.gateway(number)[0]}:{PORT}" for number in (1, 2)]
    first = BrowserPhone(browser, "SipJsPhone", "1001", servers)
    second = BrowserPhone(browser, "JsSipPhone", "1002", servers[1:])
    first.has("registered", 2)
    second.has("registered", 1)
    wait_until(lambda: sites.knows("1001", 2) and sites.knows("1002", 1), "the servers to know all flows")
    talk(first, second, f"sip:1002@{REALM}")
    talk(second, first, f"sip:1001@{REALM}")
