# SPDX-License-Identifier: Apache-2.0
"""The signature of what we send over HTTP: HMAC-SHA256 over ``TIMESTAMP.BODY``, in two headers.

Who receives it computes the same, compares in constant time, and refuses what is older than a few minutes.
"""

from __future__ import annotations

import hashlib
import hmac
import time

SIGNATURE = "X-Ubisip-Signature"
TIMESTAMP = "X-Ubisip-Timestamp"


def sign(secret: bytes, body: bytes, now: float | None = None) -> dict[str, str]:
    """The headers that sign *body*; *now* is seconds since the epoch."""
    at = str(int(time.time() if now is None else now))
    digest = hmac.new(secret, at.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {TIMESTAMP: at, SIGNATURE: f"sha256={digest}"}
