# SPDX-License-Identifier: Apache-2.0
"""A notice in plain values, for the sinks that send JSON, and as text for people."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from ubisip.failover.action import Notice


def plain_notice(notice: Notice) -> dict[str, Any]:
    """All that a notice says; ``status`` is ``firing`` or ``resolved``."""
    return {
        "key": notice.key,
        "status": "firing" if notice.ends_at is None else "resolved",
        "severity": notice.severity,
        "title": notice.title,
        "text": notice.text,
        "labels": dict(notice.labels),
        "starts_at": instant(notice.starts_at),
        "ends_at": None if notice.ends_at is None else instant(notice.ends_at),
    }


def json_notice(notice: Notice) -> bytes:
    """The notice as an object of JSON."""
    return json.dumps(plain_notice(notice), ensure_ascii=False, separators=(",", ":")).encode()


def instant(seconds: float) -> str:
    """A moment by RFC 3339, in UTC; *seconds* since the epoch."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
