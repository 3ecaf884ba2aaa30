# SPDX-License-Identifier: Apache-2.0
"""The bindings of agents: which contact an address of record has, and by which flow it is reached (RFC 5626).

The worker alone changes the table; the lock it takes to do so is for the control thread, which reads a page now and
then. Lookups of calls take none.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from ubisip.core.address cimport Flow, same_address, write_ip
from ubisip.core.events cimport EVENT_BINDING, emit
from ubisip.core.span cimport Span, find_octet, fold, span_of
from ubisip.core.syntax cimport HEX_VALUE
from ubisip.core.timers cimport wheel_arm, wheel_close, wheel_disarm, wheel_open
from ubisip.core.token cimport SipHash, siphash_add, siphash_end, siphash_init
from ubisip.core.uri cimport Uri, parse_uri


cdef extern from "memory.h" nogil:
    void* table_reserve(uint64_t octets) noexcept
    void table_close(void* memory, uint64_t octets) noexcept


cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t* mutex, const void* attributes) noexcept
    int pthread_mutex_lock(pthread_mutex_t* mutex) noexcept
    int pthread_mutex_unlock(pthread_mutex_t* mutex) noexcept
    int pthread_mutex_destroy(pthread_mutex_t* mutex) noexcept


cdef extern from "hash.h" nogil:
    uint64_t hash_octets(uint64_t seed, const uint8_t* data, uint32_t length) noexcept
    uint64_t hash_fold(uint64_t a, uint64_t b) noexcept


cdef enum:
    INDEX_LEAST = 1024       # a power of two, as every size of an index

# What names an agent is the same on every gateway, so its key is no secret; 64 bits are too many to find one's like.
cdef uint64_t* PUBLIC = [0x7562697369702d61, 0x67656e742d696431]
cdef uint64_t AGENT_BIT = <uint64_t>1 << 63


cdef bint open_indexes(Bindings* table, uint32_t size) noexcept nogil:
    table.mask = size - 1
    table.by_aor = <uint32_t*>calloc(size, sizeof(uint32_t))
    table.by_agent = <uint32_t*>calloc(size, sizeof(uint32_t))
    table.by_flow = <uint32_t*>calloc(size, sizeof(uint32_t))
    return table.by_aor != NULL and table.by_agent != NULL and table.by_flow != NULL


cdef bint bindings_open(Bindings* table, uint32_t most, uint32_t most_shared, int64_t now) noexcept nogil:
    cdef uint32_t capacity = most + most_shared
    memset(table, 0, sizeof(Bindings))
    table.capacity = capacity
    table.most_shared = most_shared
    table.slab = <Binding*>table_reserve((<uint64_t>capacity + 1) * sizeof(Binding))
    table.lock = calloc(1, sizeof(pthread_mutex_t))
    if table.lock == NULL or pthread_mutex_init(<pthread_mutex_t*>table.lock, NULL) != 0:
        return False
    return table.slab != NULL and open_indexes(table, INDEX_LEAST) and wheel_open(&table.wheel, capacity, now)


cdef void bindings_close(Bindings* table) noexcept nogil:
    cdef uint32_t index
    if table.slab != NULL:
        for index in range(1, table.high + 1):
            free(table.slab[index].text)
    table_close(table.slab, (<uint64_t>table.capacity + 1) * sizeof(Binding))
    free(table.by_aor)
    free(table.by_agent)
    free(table.by_flow)
    if table.lock != NULL:
        pthread_mutex_destroy(<pthread_mutex_t*>table.lock)
        free(table.lock)
    wheel_close(&table.wheel)
    memset(table, 0, sizeof(Bindings))


cdef void bindings_lock(Bindings* table) noexcept nogil:
    pthread_mutex_lock(<pthread_mutex_t*>table.lock)


cdef void bindings_unlock(Bindings* table) noexcept nogil:
    pthread_mutex_unlock(<pthread_mutex_t*>table.lock)


# --- what names what

cdef uint64_t public_hash(uint64_t first, const uint8_t* data, uint32_t length) noexcept nogil:
    cdef SipHash h
    cdef uint64_t key[2]
    key[0] = PUBLIC[0] ^ first
    key[1] = PUBLIC[1]
    siphash_init(&h, key)
    siphash_add(&h, data, length)
    return siphash_end(&h)


cdef uint64_t aor_hash(const uint8_t* aor, uint32_t length) noexcept nogil:
    """Of an address of record in its canonical form; the same on every gateway."""
    return public_hash(1, aor, length)


cdef uint64_t agent_hash(uint64_t aor, const uint8_t* data, Span instance, uint64_t contact) noexcept nogil:
    """Who a token names: the same phone after it has moved, when it has an instance; else as long as its Contact."""
    cdef uint64_t hash = public_hash(aor, data + instance.at, instance.length) if instance.length \
        else hash_fold(aor ^ <uint64_t>0x9E3779B97F4A7C15, contact ^ <uint64_t>0xE7037ED1A0B428DB)
    return hash | AGENT_BIT


cdef uint32_t unescaped(const uint8_t* data, Span span, bint lower, uint8_t* out, uint32_t most) noexcept nogil:
    """Copy *span* with its %HH undone, in lower case if asked; gives the length, at most *most*."""
    cdef uint32_t at = span.at, end = span.at + span.length, n = 0
    cdef uint8_t octet
    while at < end and n < most:
        octet = data[at]
        if octet == 0x25 and end - at > 2 and HEX_VALUE[fold(data[at + 1])] < 16 and \
                HEX_VALUE[fold(data[at + 2])] < 16:
            octet = <uint8_t>(HEX_VALUE[fold(data[at + 1])] << 4 | HEX_VALUE[fold(data[at + 2])])
            at += 2
        out[n] = fold(octet) if lower else octet
        n += 1
        at += 1
    return n


cdef uint64_t hash_part(uint64_t seed, const uint8_t* data, Span span, bint lower) noexcept nogil:
    cdef uint8_t text[MAX_CONTACT + 16]
    cdef uint32_t length = unescaped(data, span, lower, text, MAX_CONTACT)
    memset(text + length, 0, 16)
    return hash_octets(seed, text, length)


cdef uint64_t contact_hash(const uint8_t* data, Span uri) noexcept nogil:
    """Of a URI by the rules that compare them (RFC 3261 section 19.1.4): case of the host, order of the parameters."""
    cdef Uri parsed
    cdef uint64_t hash, parameters = 0
    cdef uint32_t at, end, next
    if not parse_uri(data, uri, &parsed):
        return 0
    hash = hash_part(0, data, parsed.user, False)
    hash = hash_part(hash ^ parsed.port ^ (<uint64_t>parsed.scheme << 32), data, parsed.host, True)
    at = parsed.parameters.at
    end = at + parsed.parameters.length
    while at < end:
        next = find_octet(data, at + 1, end, 0x3B)
        parameters += hash_part(1, data, span_of(at + 1, next), True)
        at = next
    return hash_fold(hash ^ <uint64_t>0xA0761D6478BD642F, parameters ^ <uint64_t>0x8EBC6AF09C88C6E3)


# --- the indexes

cdef inline uint32_t place(const Bindings* table, uint64_t hash) noexcept nogil:
    return <uint32_t>(hash_fold(hash ^ table.secret[0], table.secret[1]) & table.mask)


cdef uint64_t flow_hash(const Flow* flow) noexcept nogil:
    cdef uint64_t low, high
    if flow.stream:
        return flow.stream  # a connection's number says all
    memcpy(&low, flow.peer.ip, 8)
    memcpy(&high, flow.peer.ip + 8, 8)
    return hash_fold(low ^ <uint64_t>flow.peer.port << 40 ^ <uint64_t>0xA0761D6478BD642F, high ^ flow.listener)


cdef bint same_flow(const Flow* a, const Flow* b) noexcept nogil:
    if a.stream or b.stream:
        return a.stream == b.stream
    return a.listener == b.listener and same_address(&a.peer, &b.peer)


cdef const uint8_t* binding_text(const Binding* b, int part, uint32_t* length) noexcept nogil:
    cdef uint32_t at = 0
    cdef int i
    for i in range(part):
        at += b.length[i]
    length[0] = b.length[part]
    return b.text + at


cdef bint is_aor(const Binding* b, uint64_t aor, const uint8_t* text, uint32_t length) noexcept nogil:
    return b.aor == aor and b.length[TEXT_AOR] == length and memcmp(b.text, text, length) == 0


cdef uint32_t first_binding(const Bindings* table, uint64_t aor, const uint8_t* text, uint32_t length) noexcept nogil:
    """The newest binding of an address of record; 0: none."""
    cdef uint32_t index = table.by_aor[place(table, aor)]
    while index and not is_aor(&table.slab[index], aor, text, length):
        index = table.slab[index].aor_next
    return index


cdef uint32_t next_binding(const Bindings* table, uint32_t index) noexcept nogil:
    """The next binding of the same address of record; 0: none."""
    cdef const Binding* b = &table.slab[index]
    index = b.aor_next
    while index and not is_aor(&table.slab[index], b.aor, b.text, b.length[TEXT_AOR]):
        index = table.slab[index].aor_next
    return index


cdef uint32_t own_binding(const Bindings* table, uint32_t index) noexcept nogil:
    """Itself or the next one of its address of record that was registered here; 0: none."""
    while index and table.slab[index].home:
        index = next_binding(table, index)
    return index


cdef uint32_t first_own(const Bindings* table, uint64_t aor, const uint8_t* text, uint32_t length) noexcept nogil:
    """As first_binding(), of those that were registered here."""
    return own_binding(table, first_binding(table, aor, text, length))


cdef uint32_t next_own(const Bindings* table, uint32_t index) noexcept nogil:
    return own_binding(table, next_binding(table, index))


cdef uint32_t find_agent(const Bindings* table, uint64_t agent) noexcept nogil:
    """A binding of the agent's instance that a token names; 0: none here."""
    cdef uint32_t index = table.by_agent[place(table, agent)]
    while index and table.slab[index].agent != agent:
        index = table.slab[index].agent_next
    return index


cdef uint32_t next_of_agent(const Bindings* table, uint32_t index) noexcept nogil:
    cdef uint64_t agent = table.slab[index].agent
    index = table.slab[index].agent_next
    while index and table.slab[index].agent != agent:
        index = table.slab[index].agent_next
    return index


cdef uint32_t find_flow(const Bindings* table, const Flow* flow) noexcept nogil:
    """A binding that registered over *flow*; 0: none."""
    cdef uint32_t index = table.by_flow[place(table, flow_hash(flow))]
    while index and not same_flow(&table.slab[index].flow, flow):
        index = table.slab[index].flow_next
    return index


cdef uint32_t next_of_flow(const Bindings* table, uint32_t index) noexcept nogil:
    cdef const Flow* flow = &table.slab[index].flow
    index = table.slab[index].flow_next
    while index and not same_flow(&table.slab[index].flow, flow):
        index = table.slab[index].flow_next
    return index


cdef void link_flow(Bindings* table, uint32_t index) noexcept nogil:
    cdef Binding* b = &table.slab[index]
    cdef uint32_t* head = &table.by_flow[place(table, flow_hash(&b.flow))]
    b.flow_previous = 0
    b.flow_next = head[0]
    if head[0]:
        table.slab[head[0]].flow_previous = index
    head[0] = index


cdef void unlink_flow(Bindings* table, uint32_t index) noexcept nogil:
    """Thousands may share one flow, a test's or a gateway's behind us: so the chain is linked both ways."""
    cdef Binding* b = &table.slab[index]
    if b.flow_previous:
        table.slab[b.flow_previous].flow_next = b.flow_next
    else:
        table.by_flow[place(table, flow_hash(&b.flow))] = b.flow_next
    if b.flow_next:
        table.slab[b.flow_next].flow_previous = b.flow_previous


cdef void chain_agent(Bindings* table, uint32_t index) noexcept nogil:
    cdef uint32_t* head = &table.by_agent[place(table, table.slab[index].agent)]
    table.slab[index].agent_next = head[0]
    head[0] = index


cdef void chain(Bindings* table, uint32_t index) noexcept nogil:
    """Put a binding at the head of its chains."""
    cdef Binding* b = &table.slab[index]
    cdef uint32_t at = place(table, b.aor)
    b.aor_next = table.by_aor[at]
    table.by_aor[at] = index
    chain_agent(table, index)
    link_flow(table, index)


cdef void grow(Bindings* table) noexcept nogil:
    """Twice the indexes when they are full: they cost memory in proportion to what they hold. (100,000 bindings are
    chained anew in some 10 ms, once.) Without memory the chains get longer."""
    cdef Bindings before = table[0]
    cdef uint32_t index
    if not open_indexes(table, (table.mask + 1) * 2):
        free(table.by_aor)
        free(table.by_agent)
        free(table.by_flow)
        table[0] = before
        return
    free(before.by_aor)
    free(before.by_agent)
    free(before.by_flow)
    for index in range(1, table.high + 1):
        if table.slab[index].text != NULL:
            chain(table, index)


# --- changes; the caller holds the lock

cdef uint8_t* join(const uint8_t* aor, uint32_t aor_length, const uint8_t** parts, const uint32_t* lengths,
                   uint32_t* size) noexcept nogil:
    """The texts of a binding in one piece of memory; NULL: there is none."""
    cdef uint32_t at = aor_length
    cdef uint8_t* text
    cdef int i
    for i in range(1, TEXT_PARTS):
        at += lengths[i]
    size[0] = at
    text = <uint8_t*>malloc(at)
    if text == NULL:
        return NULL
    memcpy(text, aor, aor_length)
    at = aor_length
    for i in range(1, TEXT_PARTS):
        if lengths[i]:
            memcpy(text + at, parts[i], lengths[i])
        at += lengths[i]
    return text


cdef void take_text(Bindings* table, Binding* b, uint8_t* text, uint32_t aor_length, const uint32_t* lengths,
                    uint32_t size) noexcept nogil:
    cdef int i
    b.text = text
    b.length[TEXT_AOR] = <uint16_t>aor_length
    for i in range(1, TEXT_PARTS):
        b.length[i] = <uint16_t>lengths[i]
    table.memory += size


cdef uint32_t text_size(const Binding* b) noexcept nogil:
    cdef uint32_t size = 0
    cdef int i
    for i in range(TEXT_PARTS):
        size += b.length[i]
    return size


cdef uint32_t add_binding(Bindings* table, const uint8_t* aor, uint32_t aor_length, const uint8_t** parts,
                          const uint32_t* lengths, uint64_t contact, uint64_t agent, const Flow* flow) noexcept nogil:
    """A new binding; *parts* and *lengths* are by part, that of the address of record left out. 0: no room."""
    cdef uint32_t index = table.spare, size = 0
    cdef uint64_t hash = aor_hash(aor, aor_length)
    cdef Binding* b
    cdef uint8_t* text
    if index == 0 and table.high == table.capacity:
        return 0
    text = join(aor, aor_length, parts, lengths, &size)
    if text == NULL:
        return 0
    if table.used > table.mask:
        grow(table)
    if first_binding(table, hash, aor, aor_length) == 0:
        table.agents += 1
    if index:
        table.spare = table.slab[index].aor_next
    else:
        table.high += 1
        index = table.high
    b = &table.slab[index]
    memset(b, 0, sizeof(Binding))
    take_text(table, b, text, aor_length, lengths, size)
    b.aor = hash
    b.contact = contact
    b.agent = agent
    b.flow = flow[0]
    table.used += 1
    chain(table, index)
    return index


cdef void unchain(uint32_t* head, Binding* slab, uint32_t index, bint by_agent) noexcept nogil:
    cdef uint32_t* at = head
    while at[0] != index:
        at = &slab[at[0]].agent_next if by_agent else &slab[at[0]].aor_next
    at[0] = slab[index].agent_next if by_agent else slab[index].aor_next


cdef bint rewrite_binding(Bindings* table, uint32_t index, const uint8_t** parts, const uint32_t* lengths,
                          uint64_t contact, uint64_t agent, const Flow* flow) noexcept nogil:
    """Other texts and another flow for a binding; another agent too if its phone has another instance than before.

    False: no memory.
    """
    cdef Binding* b = &table.slab[index]
    cdef uint32_t size = 0
    cdef uint8_t* text
    cdef uint8_t* old = b.text
    cdef uint32_t old_size = text_size(b)
    text = join(b.text, b.length[TEXT_AOR], parts, lengths, &size)
    if text == NULL:
        return False
    if size == old_size and memcmp(text, old, size) == 0:
        free(text)
    else:
        take_text(table, b, text, b.length[TEXT_AOR], lengths, size)
        table.memory -= old_size
        free(old)
    b.contact = contact
    if b.agent != agent:
        unchain(&table.by_agent[place(table, b.agent)], table.slab, index, True)
        b.agent = agent
        chain_agent(table, index)
    if not same_flow(&b.flow, flow):
        unlink_flow(table, index)
        b.flow = flow[0]
        link_flow(table, index)
    return True


cdef void expire_at(Bindings* table, uint32_t index, int64_t when) noexcept nogil:
    table.slab[index].expires_at = when
    wheel_arm(&table.wheel, index, when)


cdef void remove_binding(Bindings* table, uint32_t index) noexcept nogil:
    cdef Binding* b = &table.slab[index]
    wheel_disarm(&table.wheel, index)
    unchain(&table.by_aor[place(table, b.aor)], table.slab, index, False)
    unchain(&table.by_agent[place(table, b.agent)], table.slab, index, True)
    unlink_flow(table, index)
    if first_binding(table, b.aor, b.text, b.length[TEXT_AOR]) == 0:
        table.agents -= 1
    if b.flags & GONE:
        table.gone -= 1
    if b.home:
        table.shared -= 1
    table.memory -= text_size(b)
    free(b.text)
    memset(b, 0, sizeof(Binding))
    b.aor_next = table.spare
    table.spare = index
    table.used -= 1


cdef bint is_in_step(const Binding* b, int slot) noexcept nogil:
    return (b.in_step[slot >> 6] >> (slot & 63)) & 1


# --- the journal: msgpack, an array for each change (docs/agents.md)

cdef uint32_t pack_text(uint8_t* out, uint32_t at, const uint8_t* text, uint32_t length) noexcept nogil:
    out[at] = 0xDA  # str 16
    out[at + 1] = <uint8_t>(length >> 8)
    out[at + 2] = <uint8_t>length
    memcpy(out + at + 3, text, length)
    return at + 3 + length


cdef uint32_t pack_number(uint8_t* out, uint32_t at, uint64_t number) noexcept nogil:
    cdef int i
    out[at] = 0xCF  # uint 64
    for i in range(8):
        out[at + 1 + i] = <uint8_t>(number >> (56 - 8 * i))
    return at + 9


cdef uint32_t pack_part(uint8_t* out, uint32_t at, const Binding* b, int part) noexcept nogil:
    cdef uint32_t length
    cdef const uint8_t* text = binding_text(b, part, &length)
    return pack_text(out, at, text, length)


cdef void note_binding(Bindings* table, uint32_t index, bint is_new, int64_t now) noexcept nogil:
    """A binding was made (1) or refreshed (2): [1 or 2, aor, contact, instance, reg-id, q, path, call-id, cseq,
    expires at, registered at, ip, port, listener, stream, user agent, flags], times in seconds of the wall's clock."""
    cdef uint8_t out[4096]
    cdef char ip[64]
    cdef const Binding* b = &table.slab[index]
    cdef uint32_t at = 4
    if table.journal == NULL or b.home:
        return
    out[0] = 0xDC  # array 16
    out[1] = 0
    out[2] = 17
    out[3] = 1 if is_new else 2
    at = pack_part(out, at, b, TEXT_AOR)
    at = pack_part(out, at, b, TEXT_CONTACT)
    at = pack_part(out, at, b, TEXT_INSTANCE)
    at = pack_number(out, at, b.reg_id)
    at = pack_number(out, at, b.q)
    at = pack_part(out, at, b, TEXT_PATH)
    at = pack_part(out, at, b, TEXT_CALL_ID)
    at = pack_number(out, at, b.cseq)
    at = pack_number(out, at, <uint64_t>((b.expires_at + table.wall) // 1000000))
    at = pack_number(out, at, <uint64_t>((b.refreshed_at + table.wall) // 1000000))
    at = pack_text(out, at, <const uint8_t*>ip, write_ip(&b.flow.peer, False, ip))
    at = pack_number(out, at, b.flow.peer.port)
    at = pack_number(out, at, b.flow.listener)
    at = pack_number(out, at, b.flow.stream)
    at = pack_part(out, at, b, TEXT_USER_AGENT)
    at = pack_number(out, at, b.flags & KEPT_FLAGS)
    emit(table.journal, EVENT_BINDING, now, -1, 0, 0, 0, out, at)


cdef void note_end(Bindings* table, uint32_t index, int why, int64_t now) noexcept nogil:
    """A binding ended: [0, aor, contact, instance, reg-id, why]."""
    cdef uint8_t out[1024]
    cdef const Binding* b = &table.slab[index]
    cdef uint32_t at = 2
    if table.journal == NULL or b.home:
        return
    out[0] = 0x96  # array of 6
    out[1] = 0
    at = pack_part(out, at, b, TEXT_AOR)
    at = pack_part(out, at, b, TEXT_CONTACT)
    at = pack_part(out, at, b, TEXT_INSTANCE)
    at = pack_number(out, at, b.reg_id)
    out[at] = <uint8_t>why
    emit(table.journal, EVENT_BINDING, now, -1, 0, 0, 0, out, at + 1)
