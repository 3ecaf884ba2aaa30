# SPDX-License-Identifier: Apache-2.0
"""Parsers that Python users of SIP know, each asked for the seven values that routing needs.

Some parse everything at once, others only what is read: reading the same values of all makes them comparable.
"""

from __future__ import annotations

import asyncio
import collections
import collections.abc
from collections.abc import Callable

import pyVoIP.VoIP  # noqa: F401  pyVoIP.SIP and it import each other; only this order works
import sipmessage
from pyVoIP.SIP import SIPMessage

from ubisip.core.message import Message

# aiosip 0.2.0 (2017) wants two names that Python 3.10 removed.
asyncio.coroutine = lambda function: function  # type: ignore[attr-defined]
collections.MutableMapping = collections.abc.MutableMapping  # type: ignore[attr-defined]
import aiosip  # type: ignore[import-untyped]  # noqa: E402

Needed = tuple[str, str, str, int, str, str, str]
"""Method, called user, Call-ID, CSeq number, From tag, To tag, branch of the top Via."""


def with_ubisip(data: bytes) -> Needed:
    m = Message(data)
    return m.method, m.uri_user, m.call_id, m.cseq, m.from_tag, m.to_tag, m.branch


def with_sipmessage(data: bytes) -> Needed:
    m = sipmessage.Message.parse(data)
    assert isinstance(m, sipmessage.Request)
    tags = [address.parameters.get("tag") or "" for address in (m.from_address, m.to_address)]
    return m.method, m.uri.user or "", m.call_id, m.cseq.sequence, tags[0], tags[1], m.via[0].parameters["branch"] or ""


def with_pyvoip(data: bytes) -> Needed:
    m = SIPMessage(data)
    head = m.headers
    number, branch = int(head["CSeq"]["check"]), head["Via"][0]["branch"]
    return m.method, head["To"]["number"], head["Call-ID"], number, head["From"]["tag"], head["To"]["tag"], branch


def with_aiosip(data: bytes) -> Needed:
    m = aiosip.Message.from_raw_message(data.decode())
    head = m.headers
    number, _, method = head["CSeq"].partition(" ")
    branch = head["Via"].rpartition("branch=")[2]
    tags = [details["params"].get("tag", "") for details in (m.from_details, m.to_details)]
    return method, m.to_details["uri"]["user"], head["Call-ID"], int(number), tags[0], tags[1], branch


PARSERS: dict[str, Callable[[bytes], Needed]] = {
    "ubisip": with_ubisip,
    "sipmessage 0.7.1": with_sipmessage,
    "pyVoIP 1.6.8": with_pyvoip,
    "aiosip 0.2.0": with_aiosip,
}
