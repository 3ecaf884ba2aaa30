# SPDX-License-Identifier: Apache-2.0
"""Responses of our own (RFC 3261 section 8.2.6), and how a server transaction sends any response."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, strlen

from ubisip.core.address cimport Address, Flow, parse_ip, same_ip, write_ip, write_number
from ubisip.core.edits cimport Edits, edit, edits_clear, insert, splice
from ubisip.core.machines cimport (
    ACCEPTED, COMPLETED, DO_AGAIN, DO_SEND, DO_TIMEOUT, DO_WAIT, SEND_1XX, SEND_2XX, SEND_FINAL, SERVER_INVITE, WRONG,
    Cell, machine_step,
)
from ubisip.core.identity cimport call_hash
from ubisip.core.message cimport (
    HEADER_CALL_ID, HEADER_CONTENT_LENGTH, HEADER_CSEQ, HEADER_FROM, HEADER_TIMESTAMP, HEADER_TO, HEADER_VIA,
    ParsedMessage, header_end, next_header, parse_message,
)
from ubisip.core.outbox cimport outbox_commit_response, outbox_reserve
from ubisip.core.proxy cimport WRONG_EVENTS, Proxy
from ubisip.core.timers cimport LIFETIME, T1
from ubisip.core.token cimport SipHash, siphash_add, siphash_add_number, siphash_end, siphash_init, write_hex
from ubisip.core.transactions cimport OVERDUE, Transaction, keep, release, schedule

cdef enum:
    LARGEST_DATAGRAM = 65507  # by UDP over IPv4
    OWN_TAG_LENGTH = 18      # "u-" and 16 hex digits


cdef void mark_via(const ParsedMessage* m, const Flow* from_, Edits* edits) noexcept nogil:
    """Add received and fill rport in the top Via (RFC 3261 section 18.2.1, RFC 3581 section 4)."""
    cdef char text[80]
    cdef uint32_t length
    cdef Address literal
    if m.via.has_rport:
        if m.via.rport.length:
            length = write_number(from_.peer.port, text)
            edit(edits, m.via.rport.at, m.via.rport.length, text, length)
        else:
            text[0] = 0x3D
            length = 1 + write_number(from_.peer.port, text + 1)
            insert(edits, m.via.rport_parameter.at + m.via.rport_parameter.length, text, length)
    elif not m.via.has_received and parse_ip(m.data, m.via.host, &literal) and same_ip(&literal, &from_.peer):
        return
    if m.via.has_received:
        length = write_ip(&from_.peer, False, text)
        edit(edits, m.via.received.at, m.via.received.length, text, length)
    else:
        memcpy(text, b";received=", 10)
        length = 10 + write_ip(&from_.peer, False, text + 10)
        insert(edits, m.via.value.at + m.via.value.length, text, length)


cdef void add_content_length(const ParsedMessage* m, Edits* edits) noexcept nogil:
    """A stream needs to know where the message ends (RFC 3261 section 16.6 step 9)."""
    cdef char text[40]
    cdef uint32_t length = 16
    if m.first[HEADER_CONTENT_LENGTH] >= 0:
        return
    memcpy(text, b"Content-Length: ", 16)
    length += write_number(m.size - m.body, text + 16)
    memcpy(text + length, b"\r\n", 2)
    insert(edits, header_end(m, m.count - 1), text, length + 2)


cdef Flow response_flow(const ParsedMessage* m, const Flow* from_) noexcept nogil:
    """Where a response to this request goes: its source, at the port of sent-by unless rport asks otherwise."""
    cdef Flow flow = from_[0]
    if not m.via.has_rport and flow.stream == 0:
        flow.peer.port = m.via.port if m.via.port else 5060
    return flow


cdef uint64_t own_tag(const Proxy* p, int key, const ParsedMessage* m) noexcept nogil:
    cdef SipHash h
    siphash_init(&h, p.keys.key[key])
    siphash_add_number(&h, <uint64_t>0x54 << 56 | m.cseq)
    siphash_add(&h, m.data + m.call_id.at, m.call_id.length)
    siphash_add(&h, m.data + m.from_.tag.at, m.from_.tag.length)
    return siphash_end(&h)


cdef bint is_own_tag(const Proxy* p, const ParsedMessage* m) noexcept nogil:
    """The To tag is one that a gateway of ours gave in a final response: the ACK to it ends here."""
    cdef char text[16]
    cdef int i
    if m.to.tag.length != OWN_TAG_LENGTH or memcmp(m.data + m.to.tag.at, b"u-", 2) != 0:
        return False
    for i in range(p.keys.count):
        write_hex(own_tag(p, i, m), 16, text)
        if memcmp(m.data + m.to.tag.at + 2, text, 16) == 0:
            return True
    return False


cdef uint32_t put(uint8_t* out, uint32_t at, const char* text) noexcept nogil:
    cdef uint32_t length = <uint32_t>strlen(text)
    memcpy(out + at, text, length)
    return at + length


cdef uint32_t put_line(const ParsedMessage* m, int index, const Edits* edits, uint8_t* out, uint32_t at) noexcept nogil:
    return at + splice(edits, m.data, m.headers[index].line, header_end(m, index), out + at)


cdef uint32_t put_to(Proxy* p, const ParsedMessage* m, int index, int status, uint8_t* out, uint32_t at) noexcept nogil:
    """To with a tag, unless it has one or the response is a 100."""
    cdef uint32_t end = m.headers[index].value + m.headers[index].value_length
    if status == 100 or m.to.tag.length:
        end = header_end(m, index)
        memcpy(out + at, m.data + m.headers[index].line, end - m.headers[index].line)
        return at + end - m.headers[index].line
    memcpy(out + at, m.data + m.headers[index].line, end - m.headers[index].line)
    at = put(out, at + end - m.headers[index].line, b";tag=u-")
    write_hex(own_tag(p, 0, m), 16, <char*>out + at)
    return put(out, at + 16, b"\r\n")


cdef uint32_t build(Proxy* p, const ParsedMessage* m, const Edits* edits, int status, const char* reason,
                    const char* extra, uint8_t* out) noexcept nogil:
    """Write the response: the request's Via values, From, To, Call-ID and CSeq, then *extra* lines."""
    cdef uint32_t at = put(out, 0, b"SIP/2.0 ")
    cdef int index = m.first[HEADER_VIA]
    at += write_number(status, <char*>out + at)
    out[at] = 0x20
    at = put(out, at + 1, reason)
    at = put(out, at, b"\r\n")
    while index >= 0:
        at = put_line(m, index, edits, out, at)
        index = next_header(m, index)
    if m.first[HEADER_FROM] >= 0:
        at = put_line(m, m.first[HEADER_FROM], edits, out, at)
    if m.first[HEADER_TO] >= 0:
        at = put_to(p, m, m.first[HEADER_TO], status, out, at)
    if m.first[HEADER_CALL_ID] >= 0:
        at = put_line(m, m.first[HEADER_CALL_ID], edits, out, at)
    if m.first[HEADER_CSEQ] >= 0:
        at = put_line(m, m.first[HEADER_CSEQ], edits, out, at)
    if status == 100 and m.first[HEADER_TIMESTAMP] >= 0:
        at = put_line(m, m.first[HEADER_TIMESTAMP], edits, out, at)
    if extra != NULL:
        at = put(out, at, extra)
    return put(out, at, b"Content-Length: 0\r\n\r\n")


cdef uint32_t room_for(const ParsedMessage* m, const char* reason, const char* extra) noexcept nogil:
    return m.size + 512 + <uint32_t>strlen(reason) + (<uint32_t>strlen(extra) if extra != NULL else 0)


cdef void answer(Proxy* p, const ParsedMessage* m, const Flow* from_, int status, const char* reason,
                 const char* extra) noexcept nogil:
    """Answer a request without making a transaction; *extra* are whole header lines, or NULL."""
    cdef Flow to = response_flow(m, from_)
    cdef uint32_t size
    cdef uint8_t* out = outbox_reserve(&p.outbox, room_for(m, reason, extra))
    if out == NULL:
        return
    edits_clear(&p.edits)
    mark_via(m, from_, &p.edits)
    size = build(p, m, &p.edits, status, reason, extra, out)
    if size > LARGEST_DATAGRAM:
        return
    outbox_commit_response(&p.outbox, size, &to, call_hash(m))
    p.responses[status // 100] += 1


cdef const char* retry_after(Proxy* p) noexcept nogil:
    return b"Retry-After: 5\r\n"


cdef bint send_response(Proxy* p, uint32_t server, uint8_t* data, uint32_t size, int status) noexcept nogil:
    """Let the server transaction send a response that lies in the reserved room of the outbox; False: its state
    forbids it.

    It keeps what it must send again, sets its timers, and lets the request go once the final response is out.
    """
    cdef Transaction* t = &p.transactions.slab[server]
    cdef int happening = SEND_1XX if status < 200 else (SEND_2XX if status < 300 else SEND_FINAL)
    cdef Cell cell = machine_step(t.machine, t.state, happening)
    if cell.actions & WRONG:
        p.counters[WRONG_EVENTS] += 1
        return False
    if not cell.actions & DO_SEND:
        return False
    outbox_commit_response(&p.outbox, size, &t.flow, t.call)
    p.responses[status // 100] += 1
    if t.state < COMPLETED:
        t.retransmit_at = 0  # the 100 that waited is not needed any more
        if t.machine == SERVER_INVITE and status >= 200:
            p.pending -= 1
        t.status = <unsigned short>status
        release(&p.transactions.pool, &t.response)
        if cell.state != ACCEPTED:  # a 2xx is repeated by the UAS alone (RFC 6026 section 7.1)
            t.response = keep(&p.transactions.pool, data, size)
    t.state = cell.state
    if status >= 200:
        release(&p.transactions.pool, &t.request)
        release(&p.transactions.pool, &t.best)
        t.give_up_at = 0
    if cell.actions & DO_AGAIN and t.flow.stream == 0:
        t.interval = T1
        t.retransmit_at = p.now + t.interval
    if cell.actions & (DO_TIMEOUT | DO_WAIT):
        t.expire_at = p.now + LIFETIME
    schedule(&p.transactions, server)
    return True


cdef void answer_later(Proxy* p, uint32_t server, int status) noexcept nogil:
    """The outbox has no room for a final response: the server transaction's timer tries again."""
    cdef Transaction* t = &p.transactions.slab[server]
    t.flags |= OVERDUE
    if t.best_status == 0:
        t.best_status = <unsigned short>status
    t.give_up_at = p.now + T1 // 10
    schedule(&p.transactions, server)


cdef void answer_kept(Proxy* p, uint32_t server, const ParsedMessage* m, int status, const char* reason,
                      const char* extra) noexcept nogil:
    """Answer through the server transaction of the request *m*."""
    cdef Flow from_ = p.transactions.slab[server].flow
    cdef uint8_t* out = outbox_reserve(&p.outbox, room_for(m, reason, extra))
    if out == NULL:
        if status >= 200:
            answer_later(p, server, status)
        return
    edits_clear(&p.edits)
    mark_via(m, &from_, &p.edits)
    send_response(p, server, out, build(p, m, &p.edits, status, reason, extra, out), status)


cdef void answer_transaction(Proxy* p, uint32_t server, int status, const char* reason,
                             const char* extra) noexcept nogil:
    """Answer through a server transaction, from the request it keeps."""
    cdef Transaction* t = &p.transactions.slab[server]
    if t.request != NULL and parse_message(&p.stored, t.request.data, t.request.size):
        answer_kept(p, server, &p.stored, status, reason, extra)


cdef void respond(Proxy* p, const ParsedMessage* m, const Flow* from_, uint32_t server, int status, const char* reason,
                  const char* extra) noexcept nogil:
    """Answer through the server transaction if there is one."""
    if server:
        answer_kept(p, server, m, status, reason, extra)
    else:
        answer(p, m, from_, status, reason, extra)
