# SPDX-License-Identifier: Apache-2.0
class ParseError(ValueError):
    """A message breaks the grammar (RFC 3261 section 25): what to answer, and where it went wrong."""

    status: int
    """The status that the fault calls for: 400, 413, 416, 505, 513..."""
    reason: str
    """Reason phrase that names the header field, such as ``Bad CSeq``."""
    offset: int
    """Octet of the datagram at which parsing stopped."""

class Message:
    """One SIP message: a copy of the datagram plus an index of its header fields; immutable.

    :raises ParseError: the datagram is not a SIP message that a proxy may handle.
    """

    def __init__(self, data: bytes) -> None: ...
    @property
    def data(self) -> bytes:
        """The octets as they came, without those after Content-Length."""
    @property
    def is_request(self) -> bool: ...
    @property
    def method(self) -> str:
        """The request's method; of a response, the one in CSeq."""
    @property
    def uri(self) -> str:
        """Request-URI; empty for a response."""
    @property
    def status(self) -> int:
        """Status code; 0 for a request."""
    @property
    def reason(self) -> str:
        """Reason phrase; empty for a request."""
    @property
    def call_id(self) -> str: ...
    @property
    def cseq(self) -> int:
        """CSeq number."""
    @property
    def from_tag(self) -> str: ...
    @property
    def to_tag(self) -> str:
        """Empty when there is none."""
    @property
    def from_user(self) -> str:
        """User part of the From URI: the caller's number."""
    @property
    def to_user(self) -> str: ...
    @property
    def uri_user(self) -> str:
        """User part of the Request-URI: the number called."""
    @property
    def branch(self) -> str:
        """Branch of the top Via; empty when there is none."""
    @property
    def body(self) -> bytes: ...
    @property
    def headers(self) -> list[tuple[str, str]]:
        """Names and values in order, as written (values unfolded at their ends only, UTF-8 with surrogateescape)."""
    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of the header field *name* (any case, compact forms too)."""
    def get_all(self, name: str) -> list[str]:
        """Every value of the header field *name*, in order, one item per header line."""

def parse_many(data: bytes, times: int) -> float:
    """Nanoseconds per parse of *data*, over *times* parses in C.

    :raises ParseError: *data* is not a SIP message that a proxy may handle.
    """

def use_scanner(name: str) -> bool:
    """Choose the scanner by name (``avx2``, ``sse2``, ``scalar``; empty: the best); False: not on this processor."""
