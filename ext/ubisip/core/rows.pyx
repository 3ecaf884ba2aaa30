# SPDX-License-Identifier: Apache-2.0
"""Bindings as rows: read by the control thread, put back after a restart, told by the other gateways of the site.

A binding that another gateway holds is one whose Path leads to that gateway, with the flow token that it gives to
servers (DESIGN section 9): from there on it is reached as a server would reach it.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from ubisip.core.address cimport ANY_STREAM, Address, Flow, address_from_text, address_to_python
from ubisip.core.bindings cimport (
    DEAD_FLOW, GONE, KEPT_FLAGS, MAX_AOR, MAX_CALL_ID, MAX_CONTACT, MAX_INSTANCE, MAX_PATH, MAX_USER_AGENT,
    SLOT_WORDS, TEXT_AOR, TEXT_CONTACT, TEXT_INSTANCE, TEXT_PARTS, TEXT_PATH, Binding, Bindings, add_binding,
    agent_hash, aor_hash, binding_text, bindings_lock, bindings_unlock, contact_hash, expire_at, first_binding,
    next_binding, remove_binding, rewrite_binding, text_size,
)
from ubisip.core.proxy cimport BOUND_BINDINGS, Proxy
from ubisip.core.snapshot cimport TRANSPORT_UDP, listener_for
from ubisip.core.span cimport Span, span_of
from ubisip.core.token cimport FLOW_TOKEN_LENGTH, write_flow_token


cdef enum:
    PAGE_MOST = 512          # bindings in one page for the control thread: the worker waits for some 100 us at most
    MAX_HOP = 96             # octets

cdef double LATEST = 1e11    # seconds since the epoch: beyond that, a time is none


cdef struct Row:             # a binding as a row says it; its texts lie behind, one after the other
    uint32_t length[6]
    Address address
    int64_t expires_at       # microseconds of the wall's clock; 0: it has ended
    int64_t refreshed_at
    uint32_t reg_id
    uint32_t cseq
    uint32_t home
    uint16_t q
    uint16_t flags
    uint8_t listener
    bint stream              # it was registered over a connection
    uint8_t hop[96]          # where the gateway that holds it is reached: "address:port" and parameters of its URI
    uint32_t hop_length      # 0: nowhere, but the phone is where it registered from


# --- read

cdef tuple binding_row(const Binding* b, int64_t wall):
    cdef uint32_t length, at = 0
    cdef list texts = []
    cdef int i
    for i in range(TEXT_PARTS):
        length = b.length[i]
        texts.append((<const char*>b.text)[at:at + length].decode("utf-8", "surrogateescape"))
        at += length
    ip, port = address_to_python(&b.flow.peer)
    in_step = sum(<object>b.in_step[i] << (64 * i) for i in range(SLOT_WORDS))
    return (texts[TEXT_AOR], texts[TEXT_CONTACT], texts[TEXT_INSTANCE], b.reg_id, b.q, texts[TEXT_PATH],
            texts[4], b.cseq, (b.expires_at + wall) / 1e6, (b.refreshed_at + wall) / 1e6, ip, port,
            b.flow.listener, b.flow.stream, texts[5], b.flags & KEPT_FLAGS, in_step, b.rtt or -1,
            not b.flags & DEAD_FLOW)


cdef tuple read_bindings(Bindings* table, uint32_t after, uint32_t limit, uint32_t home):
    """Up to *limit* bindings after number *after* that gateway *home* holds (0: this one), copied while the worker
    waits, told when it goes on."""
    cdef uint32_t index = after + 1, count = 0, most = min(limit, PAGE_MOST), size, i
    cdef uint32_t high
    cdef const Binding* b
    cdef Binding* copies = <Binding*>calloc(most, sizeof(Binding))
    cdef list rows = []
    if copies == NULL:
        raise MemoryError
    with nogil:
        bindings_lock(table)
        high = table.high
        while index <= high and count < most and index - after <= 16 * PAGE_MOST:
            b = &table.slab[index]
            if b.text != NULL and not b.flags & GONE and b.home == home:
                size = text_size(b)
                copies[count] = b[0]
                copies[count].text = <uint8_t*>malloc(size)
                if copies[count].text != NULL:
                    memcpy(copies[count].text, b.text, size)
                    count += 1
            index += 1
        bindings_unlock(table)
    try:
        for i in range(count):
            rows.append(binding_row(&copies[i], table.wall))
    finally:
        for i in range(count):
            free(copies[i].text)
        free(copies)
    return (0 if index > high else index - 1, rows)


# --- checked, before anything is kept

cdef int64_t to_microseconds(value) except -1:
    """
    :raises ValueError: no time in seconds since the epoch.
    """
    seconds = float(value)
    if not 0 <= seconds < LATEST:
        raise ValueError(f"{seconds} is no time")
    return <int64_t>(seconds * 1e6)


cdef list check_texts(texts):
    """As octets: those that go into messages as they are may end no line there, and no URI.

    :raises ValueError: one is none that a REGISTER can bring.
    """
    cdef list octets = [text.encode("utf-8", "surrogateescape") for text in texts]
    aor, contact, instance, path = octets[:4]
    user, _, domain = aor.rpartition(b"@")
    for each, most in zip(octets, (MAX_AOR, MAX_CONTACT, MAX_INSTANCE, MAX_PATH, MAX_CALL_ID, MAX_USER_AGENT)):
        if len(each) > most:
            raise ValueError(f"a text of {texts[0]!r} is too long")
    if any(octet < 0x20 or octet == 0x7F for octet in contact + instance + path + domain):
        raise ValueError(f"a text of {texts[0]!r} has control characters")
    if not user or not domain:
        raise ValueError(f"{texts[0]!r} is no address of record")
    if b"\"" in instance or b"\\" in instance or set(contact) & set(b" <>\""):
        raise ValueError(f"the Contact or instance of {texts[0]!r} is none")
    return octets


cdef bytes pack_row(row, uint32_t home, bytes hop):
    """A row as octets that need no second look, readable for 64 more.

    :raises ValueError: the row is none of ours.
    """
    cdef Row r
    cdef bytes packed
    cdef int i
    memset(&r, 0, sizeof(Row))
    try:
        (aor, contact, instance, reg_id, q, path, call_id, cseq, expires_at, registered_at, ip, port, listener,
         stream, user_agent) = row[:15]
        octets = check_texts((aor, contact, instance, path, call_id, user_agent))
        if not 0 <= reg_id <= 0xFFFF or not address_from_text(ip, port, &r.address):
            raise ValueError(f"{ip!r} is no address, or {reg_id} no reg-id")
        r.reg_id, r.cseq, r.q, r.flags = reg_id, cseq, q, (row[15] if len(row) > 15 else 0)
        r.expires_at, r.refreshed_at = to_microseconds(expires_at), to_microseconds(registered_at)
        r.listener = listener if 0 <= listener <= 0xFF else 0
        r.stream = stream != 0
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"no binding: {error}") from error
    for i in range(TEXT_PARTS):
        r.length[i] = <uint32_t>len(octets[i])
    r.home = home
    r.hop_length = <uint32_t>len(hop)
    memcpy(r.hop, <const char*>hop, r.hop_length)
    packed = (<const char*>&r)[:sizeof(Row)] + b"".join(octets) + bytes(64)
    if contact_of(<const uint8_t*><const char*>packed) == 0:
        raise ValueError(f"the Contact of {aor!r} is no URI")
    return packed


cdef uint64_t contact_of(const uint8_t* data) noexcept nogil:
    """Its hash; 0: it is none."""
    cdef const Row* r = <const Row*>data
    cdef uint32_t at = <uint32_t>sizeof(Row) + r.length[TEXT_AOR]
    return contact_hash(data, span_of(at, at + r.length[TEXT_CONTACT]))


# --- put in

cdef uint32_t put_row(Bindings* table, uint32_t index, const uint8_t* data, const uint8_t* path, uint32_t path_length,
                      const Flow* flow, int64_t now) noexcept nogil:
    """Make (0) or rewrite a binding as a packed row says; 0: there is no room. The caller holds the lock."""
    cdef const Row* r = <const Row*>data
    cdef const uint8_t* parts[6]
    cdef uint32_t lengths[6]
    cdef uint32_t at = <uint32_t>sizeof(Row)
    cdef uint64_t contact = contact_of(data), aor, agent
    cdef Span instance
    cdef Binding* b
    cdef int i
    for i in range(TEXT_PARTS):
        parts[i] = data + at
        lengths[i] = r.length[i]
        at += r.length[i]
    at = <uint32_t>(parts[TEXT_INSTANCE] - data)
    instance = span_of(at, at + lengths[TEXT_INSTANCE])
    aor = aor_hash(parts[TEXT_AOR], lengths[TEXT_AOR])
    agent = agent_hash(aor, data, instance, contact)
    if path != NULL:
        parts[TEXT_PATH] = path
        lengths[TEXT_PATH] = path_length
    if index == 0:
        index = add_binding(table, parts[TEXT_AOR], lengths[TEXT_AOR], parts, lengths, contact, agent, flow)
    elif not rewrite_binding(table, index, parts, lengths, contact, agent, flow):
        return 0
    if index == 0:
        return 0
    b = &table.slab[index]
    b.reg_id = r.reg_id
    b.q = min(r.q, 1000)
    b.cseq = r.cseq
    b.refreshed_at = min(r.refreshed_at - table.wall, now)
    b.version = 1
    b.flags = r.flags & <uint16_t>KEPT_FLAGS
    b.home = r.home
    return index


cdef bint restore_binding(Bindings* table, row, int listeners, int64_t now) except *:
    """False: it has expired, or there is no room.

    :raises ValueError: the row is none of ours.
    """
    cdef bytes packed = pack_row(row, 0, b"")
    cdef const uint8_t* data = <const uint8_t*><const char*>packed
    cdef const Row* r = <const Row*>data
    cdef Flow flow
    cdef uint32_t index
    memset(&flow, 0, sizeof(Flow))
    flow.peer = r.address
    flow.listener = r.listener if r.listener < listeners else 0
    flow.stream = ANY_STREAM if r.stream else 0  # its number is somebody else's by now
    if r.expires_at - table.wall <= now:
        return False
    index = put_row(table, 0, data, NULL, 0, &flow, now)
    if index == 0:
        return False
    if r.stream:
        table.slab[index].flags |= DEAD_FLOW
    expire_at(table, index, r.expires_at - table.wall)
    return True


cdef restore_bindings(Bindings* table, rows, int listeners, int64_t now):
    """Put back what was kept; gives how many. A flow that was a connection is dead; what has expired is left out.

    :raises ValueError: a row is none of ours.
    """
    return sum([restore_binding(table, row, listeners, now) for row in rows])


# --- told by other gateways

cdef bytes shared_letter(row, uint32_t home, str hop):
    """What share_binding() takes: a binding of gateway *home*, which is reached at *hop* (``address:port`` and
    parameters of the URI; "": that gateway is gone, and the phone is reached where it registered from).

    :raises ValueError: the row is none, or no other gateway has that number.
    """
    cdef bytes way = hop.encode()
    if not 0 < home <= 0xFFFF or len(way) > MAX_HOP:
        raise ValueError(f"{home} is the number of no other gateway, or it is not reached at {hop!r}")
    return pack_row(row, home, way)


cdef bytes ended_letter(str aor, str contact, str instance, uint32_t reg_id, uint32_t home):
    return shared_letter((aor, contact, instance, reg_id, 0, "", "", 0, 0, 0, "0.0.0.0", 0, 0, 0, ""), home, "")


cdef uint32_t write_path(Proxy* p, const uint8_t* data, uint8_t* out) noexcept nogil:
    """The Path that the binding's own gateway gives to servers, by an address of that gateway."""
    cdef const Row* r = <const Row*>data
    cdef uint32_t at = <uint32_t>sizeof(Row) + r.length[TEXT_AOR] + r.length[TEXT_CONTACT]
    cdef uint64_t agent = agent_hash(aor_hash(data + sizeof(Row), r.length[TEXT_AOR]), data,
                                     span_of(at, at + r.length[TEXT_INSTANCE]), contact_of(data))
    memcpy(out, b"<sip:", 5)
    write_flow_token(&p.keys, agent, r.reg_id, <char*>out + 5)
    at = 5 + FLOW_TOKEN_LENGTH
    out[at] = 0x40
    memcpy(out + at + 1, r.hop, r.hop_length)
    at += 1 + r.hop_length
    memcpy(out + at, b";lr;ob>", 7)
    return at + 7


cdef bint is_row_of(const Binding* b, const Row* r, const uint8_t* data, uint64_t contact) noexcept nogil:
    """The same flow of an instance (RFC 5626 section 6), else the same contact, of the same gateway."""
    cdef uint32_t at = <uint32_t>sizeof(Row) + r.length[TEXT_AOR] + r.length[TEXT_CONTACT], length
    cdef const uint8_t* text = binding_text(b, TEXT_INSTANCE, &length)
    if b.home != r.home or b.reg_id != r.reg_id:
        return False
    if r.reg_id == 0:
        return b.contact == contact
    return length == r.length[TEXT_INSTANCE] and memcmp(text, data + at, length) == 0


cdef uint32_t find_row(const Bindings* table, const uint8_t* data) noexcept nogil:
    cdef const Row* r = <const Row*>data
    cdef const uint8_t* aor = data + sizeof(Row)
    cdef uint32_t index = first_binding(table, aor_hash(aor, r.length[TEXT_AOR]), aor, r.length[TEXT_AOR])
    cdef uint64_t contact = contact_of(data)
    while index and not is_row_of(&table.slab[index], r, data, contact):
        index = next_binding(table, index)
    return index


cdef void end_shared(Bindings* table, uint32_t index) noexcept nogil:
    bindings_lock(table)
    remove_binding(table, index)
    bindings_unlock(table)


cdef void share_binding(Proxy* p, const uint8_t* data) noexcept nogil:
    """A binding that another gateway holds was made, refreshed, or has ended, as a letter of the two above says."""
    cdef const Row* r = <const Row*>data
    cdef uint8_t path[MAX_PATH]
    cdef Flow flow
    cdef uint32_t index = find_row(&p.bindings, data)
    cdef bint is_new = index == 0
    if r.expires_at - p.bindings.wall <= p.now:
        if index:
            end_shared(&p.bindings, index)
        return
    if is_new and p.bindings.shared >= p.bindings.most_shared:
        p.counters[BOUND_BINDINGS] += 1
        return
    memset(&flow, 0, sizeof(Flow))
    flow.peer = r.address
    flow.listener = <uint8_t>max(0, listener_for(p.view, &r.address, 0, TRANSPORT_UDP))
    bindings_lock(&p.bindings)
    index = put_row(&p.bindings, index, data, path, write_path(p, data, path) if r.hop_length else 0, &flow, p.now)
    if index:
        p.bindings.shared += is_new
        expire_at(&p.bindings, index, min(r.expires_at - p.bindings.wall,
                                          p.now + <int64_t>p.view.agents.max_expires * 1000000))
    bindings_unlock(&p.bindings)
