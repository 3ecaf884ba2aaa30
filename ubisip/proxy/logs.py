# SPDX-License-Identifier: Apache-2.0
"""Log lines for people or for programs, and a brake for causes that repeat."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import TextIO

HUMAN = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("human", "json")
SPOKEN_CAUSES = 256
"""Causes a brake remembers; some causes hold names chosen by a hook, so the oldest is forgotten beyond that."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, node, and the traceback if any."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "node": self._node,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure_logging(form: str, level: str, node: str, stream: TextIO) -> None:
    """Send the log of the whole process to *stream*; *form* is one of FORMATS, *level* one of LEVELS."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(node) if form == "json" else logging.Formatter(HUMAN))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)  # a scrape a second is no news
    logging.getLogger("websockets").setLevel(logging.WARNING)  # nor is each phone that connects
    for driver in ("aiormq", "aio_pika"):  # it logs each attempt that fails; whoever made it says so
        logging.getLogger(driver).setLevel(logging.CRITICAL)


class Brake:
    """Lets each cause through once in *interval* seconds and counts what it held back."""

    def __init__(self, interval: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._clock = clock
        self._spoken: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def passes(self, cause: str) -> int | None:
        """How many of *cause* were held back since it was last let through, or None: hold this one back too."""
        now = self._clock()
        if now - self._spoken.get(cause, float("-inf")) < self._interval:
            self._held[cause] = self._held.get(cause, 0) + 1
            return None
        self._spoken.pop(cause, None)
        self._spoken[cause] = now
        while len(self._spoken) > SPOKEN_CAUSES:
            oldest = next(iter(self._spoken))
            del self._spoken[oldest]
            self._held.pop(oldest, None)
        return self._held.pop(cause, 0)
