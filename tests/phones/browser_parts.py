# SPDX-License-Identifier: Apache-2.0
"""Phones in a headless Chromium, spoken to by its DevTools protocol; their libraries come from the npm registry."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from processes import wait_until
from site_parts import HERE, REALM, USERS, Sites
from websockets.sync.client import ClientConnection, connect

OPTIONS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--ignore-certificate-errors",
    "--allow-loopback-in-peer-connection",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--disable-features=WebRtcHideLocalIpsWithMdns",
    "--remote-debugging-address=127.0.0.1",
    "--remote-debugging-port=0",
]
NPM_PATIENCE = 120


@cache
def bundle(folder: Path) -> str:
    """The phones and their libraries as one script, made in *folder* unless it has been made there before.

    The test is skipped when the packages cannot be had.
    """
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    for name in ("package.json", "package-lock.json", "browser_phone.js"):
        shutil.copy(HERE / name, folder)
    if not (folder / "node_modules" / ".package-lock.json").exists():
        install = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=NPM_PATIENCE, check=False)
        if done.returncode != 0:
            pytest.skip(f"npm ci: {done.stderr[-500:]}")
    esbuild = [str(folder / "node_modules" / ".bin" / "esbuild"), "browser_phone.js", "--bundle", "--outfile=phones.js"]
    subprocess.run(esbuild, cwd=folder, capture_output=True, timeout=60, check=True)
    return (folder / "phones.js").read_text()


@contextmanager
def open_browser(sites: Sites, script: str) -> Iterator[Browser]:
    """A Chromium with one page that holds *script*; it ends with the place of *sites*."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    profile = sites.place.directory / "chromium"
    page = sites.place.directory / "phones.html"
    page.write_text(f'<!doctype html><meta charset="utf-8"><script>{script}</script>')
    sites.place.run("chromium", [chromium, *OPTIONS, f"--user-data-dir={profile}", page.as_uri()])
    port_file = profile / "DevToolsActivePort"
    wait_until(lambda: port_file.exists() and "\n" in port_file.read_text(), "Chromium to be ready")
    port = port_file.read_text().split()[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=10) as answer:
        pages = [one for one in json.load(answer) if one["type"] == "page"]
    with connect(pages[0]["webSocketDebuggerUrl"], max_size=None) as devtools:
        browser = Browser(devtools)
        wait_until(lambda: browser.value("typeof phones") == "object", "the page to be loaded")
        yield browser


class Browser:
    """A page in which phones are made."""

    def __init__(self, devtools: ClientConnection) -> None:
        self._devtools = devtools
        self._ids = itertools.count(1)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives, its promise awaited."""
        number = next(self._ids)
        parameters = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        self._devtools.send(json.dumps({"id": number, "method": "Runtime.evaluate", "params": parameters}))
        while (answer := json.loads(self._devtools.recv(timeout=20))).get("id") != number:
            pass
        result = answer["result"]
        assert "exceptionDetails" not in result, f"{expression}: {result['exceptionDetails']}"
        return result["result"].get("value")


class BrowserPhone:
    """A phone of *user* in *browser*, registered with each of *servers*; *kind*: ``SipJsPhone`` or ``JsSipPhone``."""

    def __init__(self, browser: Browser, kind: str, user: str, servers: list[str]) -> None:
        settings = {
            "user": user,
            "password": USERS[user],
            "realm": REALM,
            "servers": servers,
            "instance": f"00000000-0000-1000-8000-{int(user):012x}",
        }
        self._browser = browser
        self._name = f"phone{user}"
        browser.value(f"void (window.{self._name} = new phones.{kind}({json.dumps(settings)}))")

    def does(self, call: str) -> None:
        """Call one of its methods, such as ``answer()``."""
        self._browser.value(f"void {self._name}.{call}")

    def has(self, name: str, value: object) -> None:
        """Wait until one of its attributes has this value."""
        attribute = f"{self._name}.{name}"
        wait_until(lambda: self._browser.value(attribute) == value, f"{attribute} to be {value}", 20)

    def hears_the_other(self) -> None:
        """Wait until sound arrives in packets that come now."""
        before = self._browser.value(f"{self._name}.received()")

        def audible() -> bool:
            now = self._browser.value(f"{self._name}.received()")
            return bool(now["packets"] > before["packets"] + 10 and now["energy"] > before["energy"])

        wait_until(audible, f"{self._name} to hear the other", 20)
