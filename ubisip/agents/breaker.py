# SPDX-License-Identifier: Apache-2.0
"""A circuit breaker: who fails several times in a row is left alone for a while, then tried by one."""

from __future__ import annotations

FAILURES = 5
"""In a row, after which it opens."""
FIRST_REST = 1.0
"""Seconds that it stays open the first time; doubled each time that the trial fails."""
LONGEST_REST = 15.0
"""So that a source which is back is used again within this many seconds."""


class Breaker:
    """Closed: all may pass. Open: none for a while. Then one may, and what becomes of it decides."""

    def __init__(self) -> None:
        self._failures = 0
        self._rest = FIRST_REST
        self._open_until: float | None = None
        self._trial = False

    @property
    def is_open(self) -> bool:
        """Whether it has opened and no success has closed it yet."""
        return self._open_until is not None

    def lets_pass(self, now: float) -> bool:
        """Whether a try may be made; the one who was let through tells how it went."""
        if self._open_until is None:
            return True
        if now < self._open_until or self._trial:
            return False
        self._trial = True
        return True

    def succeeded(self) -> None:
        self._failures, self._rest, self._open_until, self._trial = 0, FIRST_REST, None, False

    def failed(self, now: float) -> None:
        self._failures += 1
        if self._trial or (self._open_until is None and self._failures >= FAILURES):
            self._open_until = now + self._rest
            self._rest = min(2 * self._rest, LONGEST_REST)
            self._trial = False
