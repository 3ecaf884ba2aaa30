# SPDX-License-Identifier: Apache-2.0
import socket
from collections.abc import Sequence
from typing import Any

from ubisip.core.engine import Event
from ubisip.core.events import StreamMessage as StreamMessage
from ubisip.core.snapshot import Snapshot

class Worker:
    """The thread that carries the calls: epoll, recvmmsg, engine, sendmmsg, without the GIL.

    *sockets* are bound UDP sockets in the order of the gateway's ``listen`` (non-UDP listeners have None there);
    the worker does not close them. *coalesce* is in seconds. All methods are called from the control thread.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket | None],
        snapshot: Snapshot,
        keys: Sequence[bytes],
        *,
        coalesce: float = 0.0005,
    ) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None:
        """Stop the thread and wait for it; what is in the outbox is sent first."""
    def fileno(self) -> int:
        """An eventfd that is readable when events wait; add it to the loop, then call events()."""
    def events(self) -> list[Event]: ...
    def swap(self, snapshot: Snapshot) -> None: ...
    def set_keys(self, keys: Sequence[bytes]) -> None: ...
    def decide(self, handle: int, destination: int) -> None: ...
    def probe(self, destination: int, data: bytes, handle: int, timeout: float) -> None: ...
    def receive_stream(self, data: bytes, stream: int, peer: tuple[str, int], listener: int) -> None:
        """One whole message that came over connection number *stream* (1 to 2**31 - 2) from *peer*.

        :raises BufferError: the mailbox is full.
        """
    def stream_messages(self) -> list[StreamMessage]:
        """The messages to send over connections, oldest first; fileno() is readable when some wait."""
    def stream_failed(self, data: bytes, address: tuple[str, int]) -> None:
        """A request from stream_messages() could not be sent to *address*: its attempt has failed."""
    def credential(
        self, user: str, realm: str, md5: bytes, sha256: bytes, sha512_256: bytes, known: bool, lifetime: float
    ) -> None:
        """The HA1 digests of *user*, for *lifetime* seconds; b"" where there is none. Not *known*: nobody is called so.

        :raises BufferError: the mailbox is full.
        """
    def credential_failed(self, user: str, realm: str) -> None:
        """They cannot be had now: who waits for them gets 503."""
    def take_journal(self) -> bytes:
        """Records of what changed in the bindings since the last call, as msgpack; see docs/agents.md."""
    def journal_lost(self) -> int:
        """Records since the start that found the journal's ring full: the control thread stood for too long."""
    def bindings(self, after: int, limit: int, home: int = 0) -> tuple[int, list[tuple[Any, ...]]]:
        """Up to *limit* bindings after number *after*, and the number to go on after: 0 at the end.

        Those that were registered here, or that the gateway with number *home* holds.
        """
    def share(self, row: Sequence[Any], home: int, hop: str) -> None:
        """A binding that another gateway holds: see Engine.share.

        :raises ValueError: the row is none.
        :raises BufferError: the mailbox is full.
        """
    def end_shared(self, aor: str, contact: str, instance: str, reg_id: int, home: int) -> None:
        """A binding that another gateway held has ended; raises as share() does."""
    def restore(self, rows: Sequence[tuple[Any, ...]]) -> int:
        """Put back bindings that were kept.

        :raises ValueError: one is none of ours.
        """
    def stream_closed(self, stream: int) -> None:
        """Connection number *stream* has ended: nothing can be sent over it any more.

        :raises BufferError: the mailbox is full.
        """
    def successes(self) -> dict[int, int]:
        """By slot, the attempts that brought any response other than a 503: for the control loop."""
    def statistics(self) -> dict[str, Any]:
        """As Engine.statistics(), plus ``worker``: ``{"batches": n, "received": n, "sent": n, "together": n,
        "send_errors": n, "busy": seconds}`` (``together``: of those sent, the responses that left in one message with
        an earlier one) and ``alive``: the monotonic time of the worker's last turn (at least one a second)."""
