# SPDX-License-Identifier: Apache-2.0
"""One SIP message: an index of spans over a datagram (RFC 3261 sections 7 and 25)."""
from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from ubisip.core.headers cimport NameAddr, Via, parse_name_addr, parse_via
from ubisip.core.span cimport (
    Cursor, Span, cursor, find_octet, peek, same, same_name, same_spans, skip_lws, span_of, take, take_class,
    take_number,
)
from ubisip.core.syntax cimport CLASS_LWS, CLASS_TOKEN, character_is, find_either
from ubisip.core.uri cimport Uri, parse_uri


cdef extern from "scan.h" nogil:
    ctypedef int (*scan_function)(const uint8_t*, uint32_t, uint32_t, uint32_t*, int*, int16_t*, uint32_t*) noexcept
    scan_function scan_choose(const char* name) noexcept
    int SCAN_BAD_LINE, SCAN_TOO_MANY, SCAN_NO_END


cdef scan_function scan = scan_choose(NULL)

# CSeq is below 2**31 (RFC 3261 section 8.1.1.5), Max-Forwards within 0..255 (section 20.22).
cdef uint64_t MAX_CSEQ = 0x7FFFFFFF
cdef uint64_t MAX_MAX_FORWARDS = 255


cdef bint fail(ParsedMessage* m, uint16_t status, const char* reason, uint32_t at) noexcept nogil:
    """Note the first fault; gives False, so that a reader can end with it."""
    if m.error == 0:
        m.error = status
        m.error_reason = reason
        m.error_at = at
    return False


cdef Method method_of(const uint8_t* data, Span name) noexcept nogil:
    """Methods are case-sensitive (RFC 3261 section 7.1)."""
    if same(data, name, b"INVITE", 6):
        return METHOD_INVITE
    if same(data, name, b"ACK", 3):
        return METHOD_ACK
    if same(data, name, b"BYE", 3):
        return METHOD_BYE
    if same(data, name, b"CANCEL", 6):
        return METHOD_CANCEL
    if same(data, name, b"OPTIONS", 7):
        return METHOD_OPTIONS
    if same(data, name, b"REGISTER", 8):
        return METHOD_REGISTER
    if same(data, name, b"MESSAGE", 7):
        return METHOD_MESSAGE
    if same(data, name, b"PUBLISH", 7):
        return METHOD_PUBLISH
    return METHOD_OTHER


cdef bint read_version(ParsedMessage* m, Cursor* c) noexcept nogil:
    """SIP-Version, in any case; 505 for another version of SIP, 400 for anything else."""
    cdef uint32_t at = c.at
    cdef uint64_t number = 0
    if c.end - at < 7:
        return fail(m, 400, b"Bad Start Line", at)
    if memcmp(c.data + at, b"SIP/2.0", 7) == 0:
        c.at += 7
        return True
    if not same_name(c.data, span_of(at, at + 4), b"sip/", 4):
        return fail(m, 400, b"Bad Start Line", at)
    c.at += 4
    if memcmp(c.data + c.at, b"2.0", 3) == 0:
        c.at += 3
        return True
    if take_number(c, 0xFFFF, &number) and take(c, 0x2E) and take_number(c, 0xFFFF, &number):
        return fail(m, 505, b"Version Not Supported", at)
    return fail(m, 400, b"Bad Start Line", at)


cdef bint read_request_line(ParsedMessage* m, Cursor* c) noexcept nogil:
    """Request-Line = Method SP Request-URI SP SIP-Version CRLF, single spaces (RFC 4475 sections 3.1.2.7 to 10)."""
    cdef uint32_t start
    m.method_name = take_class(c, CLASS_TOKEN)
    if m.method_name.length == 0 or not take(c, 0x20):
        return fail(m, 400, b"Bad Start Line", c.at)
    m.method = method_of(c.data, m.method_name)
    start = c.at
    c.at = find_octet(c.data, start, c.end, 0x20)
    m.uri = span_of(start, c.at)
    if m.uri.length == 0 or not take(c, 0x20):
        return fail(m, 400, b"Bad Start Line", c.at)
    if not read_version(m, c):
        return False
    if c.at != c.end:
        return fail(m, 400, b"Bad Start Line", c.at)
    if not parse_uri(c.data, m.uri, &m.request_uri):
        return fail(m, 400, b"Bad Request-URI", start)
    return True


cdef bint read_status_line(ParsedMessage* m, Cursor* c) noexcept nogil:
    """Status-Line = SIP-Version SP Status-Code SP Reason-Phrase CRLF."""
    cdef uint64_t status = 0
    if not read_version(m, c) or not take(c, 0x20):
        return fail(m, 400, b"Bad Start Line", c.at)
    if not take_number(c, 699, &status) or status < 100:
        return fail(m, 400, b"Bad Status Code", c.at)
    m.status = <uint16_t>status
    if c.at < c.end and not take(c, 0x20):
        return fail(m, 400, b"Bad Status Code", c.at)
    m.reason = span_of(c.at, c.end)
    return True


cdef bint read_start_line(ParsedMessage* m) noexcept nogil:
    """Find the end of the start line, then read it; start_end is set whatever it holds, 0 when it has no end."""
    cdef Cursor c
    cdef uint32_t at = 0, end
    memset(&m.request_uri, 0, sizeof(Uri))
    # Empty lines before the start line are ignored (RFC 3261 section 7.5).
    while at + 1 < m.size and m.data[at] == 0x0D and m.data[at + 1] == 0x0A:
        at += 2
    m.start = at
    end = find_octet(m.data, at, m.size, 0x0A)
    if end == m.size or end == at or m.data[end - 1] != 0x0D:
        return fail(m, 400, b"Bad Start Line", end)
    m.start_end = end + 1
    c = cursor(m.data, span_of(at, end - 1))
    m.is_request = not (c.end - at >= 8 and memcmp(m.data + at, b"SIP/", 4) == 0)
    return read_request_line(m, &c) if m.is_request else read_status_line(m, &c)


cdef enum:
    ONCE = (1 << HEADER_FROM) | (1 << HEADER_TO) | (1 << HEADER_CALL_ID) | (1 << HEADER_CSEQ) \
        | (1 << HEADER_MAX_FORWARDS) | (1 << HEADER_CONTENT_LENGTH)


cdef const char* repeated_reason(uint8_t id) noexcept nogil:
    if id == HEADER_FROM:
        return b"Repeated From"
    if id == HEADER_TO:
        return b"Repeated To"
    if id == HEADER_CALL_ID:
        return b"Repeated Call-ID"
    if id == HEADER_CSEQ:
        return b"Repeated CSeq"
    if id == HEADER_MAX_FORWARDS:
        return b"Repeated Max-Forwards"
    if id == HEADER_CONTENT_LENGTH:
        return b"Repeated Content-Length"
    return NULL


cdef void blame_repeated(ParsedMessage* m) noexcept nogil:
    """The first line that repeats a header field which may stand there but once."""
    cdef int i
    for i in range(m.count):
        if i != m.first[m.headers[i].id] and repeated_reason(m.headers[i].id) != NULL:
            fail(m, 400, repeated_reason(m.headers[i].id), m.headers[i].line)


cdef bint read_lines(ParsedMessage* m) noexcept nogil:
    """Index every header line and note the first and the last of each kind."""
    cdef uint32_t repeated = 0
    cdef int found = scan(m.data, m.size, m.start_end, &m.body, &m.count, m.first, &repeated)
    if repeated & ONCE:
        blame_repeated(m)
    if found == SCAN_TOO_MANY:
        return fail(m, 513, b"Too Many Header Fields", m.body)
    if found == SCAN_NO_END:
        return fail(m, 400, b"Header Not Ended", m.body)
    if found == SCAN_BAD_LINE:
        return fail(m, 400, b"Bad Header Line", m.body)
    return True


cdef bint read_via(ParsedMessage* m) noexcept nogil:
    cdef int index = m.first[HEADER_VIA]
    if index < 0:
        memset(&m.via, 0, sizeof(Via))
        return fail(m, 400, b"Missing Via", m.body)
    m.via_sound = parse_via(m.data, header_value(m, index), &m.via)
    if not m.via_sound:
        # An answer can still find its way when at least the sent-by was read.
        m.via_sound = m.via.sent_by.length > 0
        m.via.value = span_of(m.via.value.at, m.via.sent_by.at + m.via.sent_by.length)
        m.via.has_rport = m.via.has_received = False
        return fail(m, 400, b"Bad Via", m.headers[index].value)
    return True


cdef bint read_party(ParsedMessage* m, int id, NameAddr* out, const char* missing, const char* bad) noexcept nogil:
    cdef int index = m.first[id]
    if index < 0:
        memset(out, 0, sizeof(NameAddr))
        return fail(m, 400, missing, m.body)
    if not parse_name_addr(m.data, header_value(m, index), False, out):
        return fail(m, 400, bad, m.headers[index].value)
    return True


cdef bint read_call_id(ParsedMessage* m) noexcept nogil:
    cdef int index = m.first[HEADER_CALL_ID]
    cdef uint32_t end
    if index < 0:
        return fail(m, 400, b"Missing Call-ID", m.body)
    m.call_id = header_value(m, index)
    end = m.call_id.at + m.call_id.length
    if m.call_id.length == 0 or find_either(m.data, m.call_id.at, end, 0x20, 0x09) != end:
        return fail(m, 400, b"Bad Call-ID", m.call_id.at)
    return True


cdef bint read_cseq(ParsedMessage* m) noexcept nogil:
    cdef int index = m.first[HEADER_CSEQ]
    cdef Cursor c
    cdef uint64_t number = 0
    if index < 0:
        return fail(m, 400, b"Missing CSeq", m.body)
    c = cursor(m.data, header_value(m, index))
    if not take_number(&c, MAX_CSEQ, &number) or not character_is(<uint8_t>peek(&c), CLASS_LWS):
        return fail(m, 400, b"Bad CSeq", c.at)
    skip_lws(&c)
    m.cseq = <uint32_t>number
    m.cseq_method = span_of(c.at, c.end)
    if m.is_request and same_spans(m.data, m.cseq_method, m.data, m.method_name):
        return True
    m.cseq_method = take_class(&c, CLASS_TOKEN)
    if m.cseq_method.length == 0 or c.at != c.end:
        return fail(m, 400, b"Bad CSeq", c.at)
    if not m.is_request:
        m.method = method_of(m.data, m.cseq_method)
        m.method_name = m.cseq_method
    else:
        return fail(m, 400, b"CSeq Method Mismatch", m.cseq_method.at)
    return True


cdef bint read_max_forwards(ParsedMessage* m) noexcept nogil:
    cdef int index = m.first[HEADER_MAX_FORWARDS]
    cdef Cursor c
    cdef uint64_t number = 0
    m.max_forwards = -1
    if index < 0:
        return True
    c = cursor(m.data, header_value(m, index))
    if not take_number(&c, MAX_MAX_FORWARDS, &number) or c.at != c.end:
        return fail(m, 400, b"Bad Max-Forwards", c.at)
    m.max_forwards = <int>number
    return True


cdef bint read_content_length(ParsedMessage* m) noexcept nogil:
    """Octets after the body are discarded (RFC 3261 section 18.3); a body cut short is an error."""
    cdef int index = m.first[HEADER_CONTENT_LENGTH]
    cdef Cursor c
    cdef uint64_t length = 0
    if index < 0:
        return True
    c = cursor(m.data, header_value(m, index))
    if not take_number(&c, 0xFFFFFFF, &length) or c.at != c.end:
        return fail(m, 400, b"Bad Content-Length", c.at)
    if length > m.size - m.body:
        return fail(m, 400, b"Content-Length Beyond Message", c.at)
    m.size = m.body + <uint32_t>length
    return True


cdef bint parse_message(ParsedMessage* m, const uint8_t* data, uint32_t size) noexcept nogil:
    """Index and check one message; False when it is not sound: error, error_reason, error_at say why.

    *data* must be readable for SCAN_PADDING octets beyond *size*. What could be read is there all the same, so that an
    error can be answered.
    """
    cdef bint sound
    memset(m, 0, <const uint8_t*>&m.request_uri - <const uint8_t*>m)
    m.data = data
    m.size = size
    sound = read_start_line(m)
    if m.start_end == 0:
        return False
    sound = read_lines(m) and sound
    sound = read_via(m) and sound
    sound = read_party(m, HEADER_FROM, &m.from_, b"Missing From", b"Bad From") and sound
    sound = read_party(m, HEADER_TO, &m.to, b"Missing To", b"Bad To") and sound
    sound = read_call_id(m) and sound
    sound = read_cseq(m) and sound
    sound = read_max_forwards(m) and sound
    if sound:
        sound = read_content_length(m)
    return sound and m.error == 0


class ParseError(ValueError):
    """A message breaks the grammar (RFC 3261 section 25): what to answer, and where it went wrong."""

    def __init__(self, status: int, reason: str, offset: int) -> None:
        super().__init__(f"{status} {reason} at octet {offset}")
        self.status = status
        self.reason = reason
        self.offset = offset


COMPACT_NAMES = {  # RFC 3261 section 7.3.3, and the registry of header fields since
    "a": "accept-contact", "b": "referred-by", "c": "content-type", "d": "request-disposition", "e": "content-encoding",
    "f": "from", "i": "call-id", "j": "reject-contact", "k": "supported", "l": "content-length", "m": "contact",
    "n": "identity-info", "o": "event", "r": "refer-to", "s": "subject", "t": "to", "u": "allow-events", "v": "via",
    "x": "session-expires", "y": "identity",
}


def long_name(name: str) -> str:
    lower = name.lower()
    return COMPACT_NAMES.get(lower, lower)


cdef class Message:
    """One SIP message: a copy of the datagram plus an index of its header fields; immutable."""

    cdef uint8_t* memory
    cdef ParsedMessage* parsed

    def __cinit__(self, bytes data not None):
        cdef uint32_t size = <uint32_t>len(data)
        self.memory = <uint8_t*>malloc(size + SCAN_PADDING)
        self.parsed = <ParsedMessage*>malloc(sizeof(ParsedMessage))
        if self.memory == NULL or self.parsed == NULL:
            raise MemoryError
        memcpy(self.memory, <const char*>data, size)
        memset(self.memory + size, 0, SCAN_PADDING)
        if not parse_message(self.parsed, self.memory, size):
            raise ParseError(self.parsed.error, (<bytes>self.parsed.error_reason).decode(), self.parsed.error_at)

    def __dealloc__(self):
        free(self.memory)
        free(self.parsed)

    cdef str text(self, Span span):
        return (<const char*>self.memory)[span.at:span.at + span.length].decode("utf-8", "surrogateescape")

    cdef str user_of(self, Span span):
        cdef Uri uri
        parse_uri(self.memory, span, &uri)
        return self.text(uri.user)

    @property
    def data(self):
        return (<const char*>self.memory)[:self.parsed.size]

    @property
    def is_request(self):
        return bool(self.parsed.is_request)

    @property
    def method(self):
        return self.text(self.parsed.method_name)

    @property
    def uri(self):
        return self.text(self.parsed.uri)

    @property
    def status(self):
        return self.parsed.status

    @property
    def reason(self):
        return self.text(self.parsed.reason)

    @property
    def call_id(self):
        return self.text(self.parsed.call_id)

    @property
    def cseq(self):
        return self.parsed.cseq

    @property
    def from_tag(self):
        return self.text(self.parsed.from_.tag)

    @property
    def to_tag(self):
        return self.text(self.parsed.to.tag)

    @property
    def from_user(self):
        return self.user_of(self.parsed.from_.uri)

    @property
    def to_user(self):
        return self.user_of(self.parsed.to.uri)

    @property
    def uri_user(self):
        return self.text(self.parsed.request_uri.user)

    @property
    def branch(self):
        return self.text(self.parsed.via.branch)

    @property
    def body(self):
        return (<const char*>self.memory)[self.parsed.body:self.parsed.size]

    @property
    def headers(self):
        cdef int i
        return [
            (self.text(span_of(self.parsed.headers[i].line,
                               self.parsed.headers[i].line + self.parsed.headers[i].name_length)),
             self.text(header_value(self.parsed, i)))
            for i in range(self.parsed.count)
        ]

    def get(self, name, default=None):
        wanted = long_name(name)
        return next((value for each, value in self.headers if long_name(each) == wanted), default)

    def get_all(self, name):
        wanted = long_name(name)
        return [value for each, value in self.headers if long_name(each) == wanted]

    def __repr__(self):
        start = f"{self.method} {self.uri}" if self.is_request else f"{self.status} {self.reason}"
        return f"<Message {start}, {self.call_id}>"


def parse_many(bytes data not None, int times) -> float:
    """Nanoseconds per parse of *data*, over *times* parses in C: what a benchmark of the parser measures."""
    cdef Message message = Message(data)
    cdef uint32_t size = <uint32_t>len(data)
    cdef timespec begin, end
    cdef int _i
    with nogil:
        clock_gettime(CLOCK_MONOTONIC, &begin)
        for _i in range(times):
            parse_message(message.parsed, message.memory, size)
        clock_gettime(CLOCK_MONOTONIC, &end)
    return ((end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec)) / times


def use_scanner(str name) -> bool:
    """Choose the scanner by name (``avx2``, ``sse2``, ``scalar``; empty: the best); False: not on this processor."""
    global scan
    cdef bytes text = name.encode()
    cdef scan_function chosen = scan_choose(<const char*>text if text else NULL)
    if chosen == NULL:
        return False
    scan = chosen
    return True
