# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ubisip.core.snapshot import Snapshot

class Datagram(NamedTuple):
    """One datagram to send."""

    data: bytes
    address: tuple[str, int]
    listener: int
    """Index in the gateway's ``listen``: the socket it leaves from."""
    stream: int = 0
    """Number of the connection it goes over; 0: it is a datagram; 2**31 - 1: any connection to the address."""

class Event(NamedTuple):
    """Something the control thread may want to know; see EVENT_KINDS."""

    kind: str
    time: float
    destination: int
    """Slot of the destination concerned; -1: none."""
    status: int
    """SIP status where there is one; for ``probe`` 0 means no answer and -1 an ICMP error."""
    handle: int
    """Of a parked call (``ask``) or of a probe."""
    value: float
    """Seconds: post-dial delay, round trip of a probe, Retry-After; else 0."""
    data: bytes
    """The INVITE for ``ask``; user, NUL and realm for ``credentials``; the Call-ID for call events; else empty."""

EVENT_KINDS: tuple[str, ...]
"""``ask`` (a new call waits for decide()), ``probe`` (result of a probe), ``refused`` (ICMP error or transport error),
``silent`` (first_response_timeout passed), ``busy`` (503; value is its Retry-After or 0), ``credentials`` (credential()
is awaited for the user and realm in data, a NUL between them), ``in_step`` (a server knows every binding again; value:
seconds that it did not), ``out_of_step``,
and, when the snapshot says record: ``setup`` (new call sent to a destination), ``ringing``, ``answered``,
``failed`` (final response to the caller, status), ``failover`` (next destination tried), ``ended`` (BYE)."""

class Engine:
    """The Sans-I/O whole of SIP: datagrams in, datagrams out, time as an argument (DESIGN section 2).

    *keys* is the key ring: 16 octets each, the first signs, all verify. Times are seconds on a monotonic clock.
    """

    def __init__(self, snapshot: Snapshot, keys: Sequence[bytes]) -> None: ...
    def receive(self, data: bytes, source: tuple[str, int], listener: int, now: float, stream: int = 0) -> None:
        """Take one datagram that came from *source* to listener number *listener*, or one message of
        connection *stream*."""
    def advance(self, now: float) -> None:
        """Fire every timer due at *now*."""
    def next_timer(self) -> float | None:
        """When advance() is next needed; None: no timer runs."""
    def outbox(self) -> list[Datagram]:
        """The datagrams to send, in order; empties the outbox."""
    def transport_error(self, data: bytes, address: tuple[str, int], now: float) -> None:
        """An ICMP error came back for a datagram that began with *data* and went to *address*."""
    def stream_closed(self, stream: int, now: float) -> None:
        """Connection number *stream* has ended: nothing can be sent over it any more, bindings of it are dead."""
    def swap(self, snapshot: Snapshot, now: float) -> None:
        """Use *snapshot* from now on."""
    def set_keys(self, keys: Sequence[bytes]) -> None: ...
    def decide(self, handle: int, destination: int, now: float) -> bool:
        """Send the parked call *handle* to the destination in slot *destination* first (-1: the default policy).

        False: the call is no longer parked.
        """
    def probe(self, destination: int, data: bytes, handle: int, timeout: float, now: float) -> None:
        """Send the complete request *data* to a destination; an event tells the result.

        The branch of its top Via is ``z9hG4bKp`` and 16 lower-case hex digits, another for each probe.
        """
    def credential(
        self, user: str, realm: str, md5: bytes, sha256: bytes, sha512_256: bytes, known: bool, lifetime: float,
        now: float,
    ) -> None:
        """Tell the HA1 digests of a user (b"": there is none of that algorithm), asked for or not; REGISTERs that wait
        for them go on. *known*: he exists. They are good for *lifetime* seconds, which may be infinite.

        :raises ValueError: a digest is not as long as its algorithm's, or a name is longer than 512 octets.
        """
    def credential_failed(self, user: str, realm: str, now: float) -> None:
        """Nobody could be asked: REGISTERs that wait get 503 with Retry-After."""
    def take_journal(self) -> bytes:
        """Changes of bindings since the last call: msgpack arrays, one after the other (docs/agents.md)."""
    def bindings(self, after: int, limit: int, now: float, home: int = 0) -> tuple[int, list[tuple[Any, ...]]]:
        """Up to *limit* bindings (512 at most) after place *after*, and the place to go on from (0: that was the last),
        of those that were registered here, or that the gateway with number *home* holds.

        Each: address of record, Contact, instance, reg-id, q (thousandths), Path, Call-ID, CSeq, expires at, registered
        at (unix time), IP, port, listener, stream, user agent, flags, slots of the servers in step (a bit each), round
        trip (microseconds; -1: not known), whether its flow lives.
        """
    def restore(self, rows: Iterable[Sequence[Any]], now: float) -> int:
        """Put back bindings as bindings() or a journal told them (the first 15 or 16 values count); gives how many.

        What has expired is left out; servers are told of the others in the background.

        :raises ValueError: a row is none of ours; those before it are in.
        """
    def share(self, row: Sequence[Any], home: int, hop: str, now: float) -> None:
        """A binding that another gateway holds, as that one's journal told it.

        *home* is the number that stands for that gateway here (1 to 65535), *hop* where it is reached
        (``10.2.0.11:5060``, with ``;transport=tcp`` if need be); "": nowhere, but the phone is where it registered
        from. Beyond limits.bindings such ones are left out, and counted as ``bound_bindings``.

        :raises ValueError: the row is none, or *home* is no such number.
        """
    def end_shared(self, aor: str, contact: str, instance: str, reg_id: int, home: int, now: float) -> None:
        """A binding that another gateway held has ended.

        :raises ValueError: there cannot be such a one.
        """
    def set_overloaded(self, overloaded: bool) -> None:
        """What the worker does when it cannot keep up: new calls and registrations are shed until it says otherwise."""
    def events(self) -> list[Event]:
        """The events since the last call."""
    def statistics(self) -> dict[str, Any]:
        """Counters since the start, see docs/operations.md:

        ``{"counters": {name: n}, "responses": {"1xx": n, ..., "6xx": n}, "transactions": n, "memory": octets,
        "pending": calls in set-up, "calls": calls established, "pdd": {"buckets": [(upper seconds, n)...], "sum": s,
        "count": n}, "destinations": {slot: {"calls": n, "setup": n, "attempts": n, "answered": n, "failed": n,
        "failovers": n, "successes": n}}}``. ``successes`` counts attempts that brought any response other than
        a 503: evidence that the destination lives.
        """
