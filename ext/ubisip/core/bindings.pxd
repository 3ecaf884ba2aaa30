# SPDX-License-Identifier: Apache-2.0
"""The bindings of agents: which contact an address of record has, and by which flow it is reached (RFC 5626)."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ubisip.core.address cimport Flow
from ubisip.core.events cimport Events
from ubisip.core.span cimport Span
from ubisip.core.timers cimport Wheel

cdef enum:
    SLOT_WORDS = 4           # a bit for each destination slot
    MAX_AOR = 256            # octets of "user@domain"
    MAX_CONTACT = 512        # octets of a Contact URI
    MAX_INSTANCE = 128       # octets of a +sip.instance, a URN of some 45
    MAX_PATH = 1024          # octets of the Path values of one binding
    MAX_CALL_ID = 256
    MAX_USER_AGENT = 64      # octets that are kept of it: for people

cdef enum BindingFlag:
    OUTBOUND_BINDING = 1     # registered by RFC 5626: a flow, named by instance and reg-id
    DEAD_FLOW = 2            # its connection is gone, or what was sent over it came back
    BY_CONTACT = 4           # reached by its Contact's address, which is not the flow it registered over
    GONE = 8                 # unregistered; kept until the servers have been told
    CHANGED = 16             # by the REGISTER that is being worked on: servers are to be told
    KEPT_FLAGS = 5           # what a journal says: OUTBOUND_BINDING, BY_CONTACT

cdef enum EndReason:
    END_UNREGISTERED = 1
    END_EXPIRED = 2
    END_FLOW_LOST = 3
    END_REPLACED = 4

cdef enum:                   # the parts of a binding's text
    TEXT_AOR
    TEXT_CONTACT
    TEXT_INSTANCE
    TEXT_PATH
    TEXT_CALL_ID
    TEXT_USER_AGENT
    TEXT_PARTS


cdef struct Binding:
    uint64_t aor             # hash of the address of record
    uint64_t agent           # who a token names: hash of address of record and instance (else contact); top bit set
    uint64_t contact         # hash of the Contact URI by its rules of comparison
    uint8_t* text            # aor, contact, instance, path, call-id, user agent, one after the other
    uint16_t length[6]       # of each part
    Flow flow                # where a request to it goes
    int64_t expires_at       # microseconds
    int64_t refreshed_at
    int64_t asked_at         # when servers were last asked to be brought in step
    uint64_t in_step[4]      # a bit for each server that has it as it stands
    uint32_t version         # of what the servers must know; another one with each change
    uint32_t cseq            # of the REGISTER it is from
    uint32_t sent_cseq       # of the last REGISTER of ours about it
    uint32_t reg_id          # 0: none
    uint32_t rtt             # microseconds from a challenge to its answer; 0: not known
    uint16_t q               # thousandths
    uint16_t flags
    uint32_t home            # number of the gateway that holds it (ubisip/proxy/sharing.py); 0: this one
    uint32_t aor_next        # chains of the three indexes; 0: none
    uint32_t agent_next
    uint32_t flow_next
    uint32_t flow_previous


cdef struct Bindings:
    Binding* slab            # numbered from 1
    uint32_t* by_aor
    uint32_t* by_agent
    uint32_t* by_flow
    uint32_t mask            # of the indexes, which grow with the table
    uint32_t capacity
    uint32_t most_shared     # of these, for bindings that other gateways hold
    uint32_t used
    uint32_t high            # numbers ever used
    uint32_t spare
    uint32_t agents          # addresses of record with at least one binding
    uint32_t gone
    uint32_t shared          # held by other gateways
    uint64_t memory          # octets of texts
    uint64_t secret[2]
    Wheel wheel              # expiry
    void* lock               # for the one reader beside the worker, the control thread
    Events* journal          # changes, for the control thread to keep; NULL: nobody keeps them
    int64_t wall             # microseconds from the clock of `now` to that of the wall


cdef struct Wanted:          # what a REGISTER says of one contact
    Span contact             # its URI
    Span instance
    uint32_t reg_id
    uint16_t q
    uint64_t key             # contact hash
    int64_t expires          # seconds; -1: not said


cdef bint bindings_open(Bindings* table, uint32_t most, uint32_t most_shared, int64_t now) noexcept nogil
cdef void bindings_close(Bindings* table) noexcept nogil
cdef void bindings_lock(Bindings* table) noexcept nogil
cdef void bindings_unlock(Bindings* table) noexcept nogil
cdef uint64_t aor_hash(const uint8_t* aor, uint32_t length) noexcept nogil
cdef uint64_t contact_hash(const uint8_t* data, Span uri) noexcept nogil
cdef uint64_t agent_hash(uint64_t aor, const uint8_t* data, Span instance, uint64_t contact) noexcept nogil
cdef uint32_t first_binding(const Bindings* table, uint64_t aor, const uint8_t* text, uint32_t length) noexcept nogil
cdef uint32_t next_binding(const Bindings* table, uint32_t index) noexcept nogil
cdef uint32_t first_own(const Bindings* table, uint64_t aor, const uint8_t* text, uint32_t length) noexcept nogil
cdef uint32_t next_own(const Bindings* table, uint32_t index) noexcept nogil
cdef uint32_t find_agent(const Bindings* table, uint64_t agent) noexcept nogil
cdef uint32_t next_of_agent(const Bindings* table, uint32_t index) noexcept nogil
cdef uint32_t find_flow(const Bindings* table, const Flow* flow) noexcept nogil
cdef uint32_t next_of_flow(const Bindings* table, uint32_t index) noexcept nogil
cdef uint32_t text_size(const Binding* b) noexcept nogil
cdef const uint8_t* binding_text(const Binding* b, int part, uint32_t* length) noexcept nogil
cdef uint32_t add_binding(Bindings* table, const uint8_t* aor, uint32_t aor_length, const uint8_t** parts,
                          const uint32_t* lengths, uint64_t contact, uint64_t agent, const Flow* flow) noexcept nogil
cdef bint rewrite_binding(Bindings* table, uint32_t index, const uint8_t** parts, const uint32_t* lengths,
                          uint64_t contact, uint64_t agent, const Flow* flow) noexcept nogil
cdef bint same_flow(const Flow* a, const Flow* b) noexcept nogil
cdef void expire_at(Bindings* table, uint32_t index, int64_t when) noexcept nogil
cdef void remove_binding(Bindings* table, uint32_t index) noexcept nogil
cdef void note_binding(Bindings* table, uint32_t index, bint is_new, int64_t now) noexcept nogil
cdef void note_end(Bindings* table, uint32_t index, int why, int64_t now) noexcept nogil
cdef bint is_in_step(const Binding* b, int slot) noexcept nogil


cdef inline uint32_t way_of(const Binding* b) noexcept nogil:
    """Tells the ways to one agent's phone apart: the reg-id of its flow, and the gateway that holds that."""
    return b.home << 16 | b.reg_id
