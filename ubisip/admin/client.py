# SPDX-License-Identifier: Apache-2.0
"""A running gateway's HTTP side, asked from the command line."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

TIMEOUT = 10.0
"""Seconds for one question."""
MAX_ANSWER = 4 * 1024 * 1024
"""Octets of an answer; a platform of 1,000 destinations has some 400 kB."""


class AdminUnreachable(Exception):
    """The gateway cannot be asked, or what answers is no gateway; the message says why."""


class AdminRefused(Exception):
    """The gateway answered no: *status* is HTTP's, *answer* its JSON body."""

    def __init__(self, status: int, answer: dict[str, Any]) -> None:
        super().__init__(str(answer.get("error", f"HTTP {status}")))
        self.status = status
        self.answer = answer


class AdminClient:
    """Asks the gateway at *url* (``http://127.0.0.1:8080``), with the bearer *token* unless it is empty.

    :raises ValueError: *url* is no such address.
    """

    def __init__(self, url: str, token: str = "") -> None:
        if not _is_http(url):
            raise ValueError(f"expected an address such as http://127.0.0.1:8080, found {url}")
        self.url = url.rstrip("/")
        self._headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a web proxy

    def platform(self) -> dict[str, Any]:
        return self._ask("GET", "/api/v1/platform", None)

    def switch(self, name: str, state: str) -> dict[str, Any]:
        return self._ask("POST", f"/api/v1/destinations/{quote(name, safe='')}/switch", {"state": state})

    def agents(self, aor: str, after: int, limit: int, one_site: bool) -> dict[str, Any]:
        query = urlencode({"aor": aor, "after": after, "limit": limit, "one_site": int(one_site)})
        return self._ask("GET", f"/api/v1/agents?{query}", None)

    def reload(self) -> dict[str, Any]:
        return self._ask("POST", "/api/v1/reload", {})

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """The JSON object that the gateway answers.

        :raises AdminRefused: it answered with a status of 400 or more.
        :raises AdminUnreachable: there was no answer, or not one of ours.
        """
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(self.url + path, data, {**self._headers, **_JSON}, method=method)
            with self._opener.open(request, timeout=TIMEOUT) as response:
                return _object(response.read(MAX_ANSWER), self.url)
        except urllib.error.HTTPError as error:
            raise AdminRefused(error.code, _refusal(error)) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise AdminUnreachable(f"cannot ask {self.url}: {getattr(reason, 'strerror', None) or reason}") from error


_JSON = {"Content-Type": "application/json"}


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _object(body: bytes, url: str) -> dict[str, Any]:
    answer = json.loads(body)
    if not isinstance(answer, dict):
        raise ValueError(f"{url} is no gateway's admin address")
    return answer


def _refusal(error: urllib.error.HTTPError) -> dict[str, Any]:
    """Its JSON body; of a plain text one, its first line."""
    body = error.read(MAX_ANSWER)
    try:
        return _object(body, "")
    except ValueError:
        return {"error": body.decode("utf-8", "replace").partition("\n")[0] or str(error)}
