# SPDX-License-Identifier: Apache-2.0
"""STUN as a keep-alive of flows over UDP (RFC 5626 section 4.4.2, RFC 8489): a Binding request is answered, no more."""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

from ubisip.core.address cimport Flow, is_ipv4
from ubisip.core.bindings cimport find_flow
from ubisip.core.outbox cimport outbox_commit, outbox_reserve
from ubisip.core.proxy cimport MALFORMED_DROPPED, STRANGERS_DROPPED, STUN, Proxy
from ubisip.core.snapshot cimport find_peer
from ubisip.core.targets cimport allow

cdef enum:
    HEADER = 20              # type(2) length(2) magic cookie(4) transaction id(12)

cdef uint8_t* COOKIE = [0x21, 0x12, 0xA4, 0x42]


cdef bint is_stun(const uint8_t* data, uint32_t size) noexcept nogil:
    """No SIP message begins with an octet below 4 (section 5)."""
    return size >= HEADER and data[0] < 4 and memcmp(data + 4, COOKIE, 4) == 0


cdef bint is_known(Proxy* p, const Flow* from_) noexcept nogil:
    """Strangers are answered at the rate of other refusals: the answer is twelve octets longer than the question."""
    return find_flow(&p.bindings, from_) != 0 or find_peer(p.view, from_) >= 0 or \
        allow(&p.refusals, p.view.refusals, max(1.0, p.view.refusals), p.now)


cdef void receive_stun(Proxy* p, const uint8_t* data, uint32_t size, const Flow* from_) noexcept nogil:
    """A Binding request gets XOR-MAPPED-ADDRESS; its own attributes concern nobody here."""
    cdef uint32_t length = <uint32_t>data[2] << 8 | data[3], octets = 4 if is_ipv4(&from_.peer) else 16, i
    cdef const uint8_t* ip = from_.peer.ip + 16 - octets
    cdef uint8_t* out
    if data[0] != 0 or data[1] != 1 or length + HEADER != size or from_.stream:
        p.counters[MALFORMED_DROPPED] += 1
        return
    if not is_known(p, from_):
        p.counters[STRANGERS_DROPPED] += 1
        return
    out = outbox_reserve(&p.outbox, 64)
    if out == NULL:
        return
    memset(out, 0, 64)
    out[0] = 0x01
    out[1] = 0x01  # Binding success response
    out[3] = <uint8_t>(8 + octets)
    memcpy(out + 4, data + 4, 16)
    out[21] = 0x20  # XOR-MAPPED-ADDRESS
    out[23] = <uint8_t>(4 + octets)
    out[25] = 0x01 if octets == 4 else 0x02
    out[26] = <uint8_t>(from_.peer.port >> 8) ^ COOKIE[0]
    out[27] = <uint8_t>from_.peer.port ^ COOKIE[1]
    for i in range(octets):
        out[28 + i] = ip[i] ^ data[4 + i]
    outbox_commit(&p.outbox, 28 + octets, from_)
    p.counters[STUN] += 1
