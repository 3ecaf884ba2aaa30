# SPDX-License-Identifier: Apache-2.0
"""What an event of the core is evidence of: attempts and OPTIONS probes become samples (DESIGN section 7)."""

from __future__ import annotations

from ubisip.health.machine import Sample, Verdict

NO_ANSWER = 0
"""Status of a probe that nobody answered."""
ICMP_ERROR = -1
"""Status of a probe that brought an ICMP or transport error."""

SLOW = 0.5
"""An answer that took more than this part of the time-out is a warning."""


def attempt(kind: str, *, retry_after: float = 0.0, sent_at: float | None = None) -> Sample:
    """The sample of an event ``refused``, ``silent`` or ``busy`` of the core.

    *retry_after* is that of a 503 in seconds, 0 when it had none; *sent_at* is when the attempt was sent: for
    ``silent``, the event's time less `first_response_timeout`.

    :raises ValueError: no such kind.
    """
    match kind:
        case "refused":
            return Sample(Verdict.LOST, "icmp", hard=True, sent_at=sent_at)
        case "silent":
            return Sample(Verdict.LOST, "silent", sent_at=sent_at)
        case "busy":
            verdict = Verdict.BUSY if retry_after > 0 else Verdict.LOST
            return Sample(verdict, "sip.503", answered=True, retry_after=retry_after, sent_at=sent_at)
    raise ValueError(f"no evidence of the kind {kind!r}")


def probe(
    status: int, round_trip: float, timeout: float, *, retry_after: float = 0.0, sent_at: float | None = None
) -> Sample:
    """The sample of an OPTIONS probe: *status* of its final response, NO_ANSWER or ICMP_ERROR.

    Any final response shows a living peer (an Asterisk may well say 404, 405 or 501), except 503, and
    408, which a proxy on the way gives for a peer it could not reach. Times are seconds.
    """
    if status == ICMP_ERROR:
        return Sample(Verdict.FAIL, "icmp", hard=True, sent_at=sent_at)
    if status == NO_ANSWER:
        return Sample(Verdict.FAIL, "timeout", sent_at=sent_at)
    reason = f"sip.{status}"
    if status == 503 and retry_after > 0:
        return Sample(Verdict.BUSY, reason, answered=True, retry_after=retry_after)
    if status in (408, 503):
        return Sample(Verdict.FAIL, reason, answered=True, sent_at=sent_at)
    if round_trip > timeout * SLOW:
        return Sample(Verdict.WARN, "slow", answered=True)
    return Sample(Verdict.PASS, reason, answered=True)


SERVED = Sample(Verdict.SERVED, "traffic", answered=True)
"""Some attempts brought a response."""
