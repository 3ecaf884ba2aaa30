# SPDX-License-Identifier: Apache-2.0
"""The state of one proxy core, which the steps of a message's way share: one worker owns it, so nothing is locked."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ubisip.core.accounts cimport Accounts
from ubisip.core.address cimport Flow
from ubisip.core.bindings cimport Bindings
from ubisip.core.edits cimport Edits
from ubisip.core.events cimport Events
from ubisip.core.message cimport ParsedMessage
from ubisip.core.outbox cimport Outbox
from ubisip.core.snapshot cimport DESTINATIONS, PlatformView
from ubisip.core.targets cimport RateLimit, Targets
from ubisip.core.token cimport KeyRing
from ubisip.core.transactions cimport Transactions

cdef enum:
    DATAGRAM = 65536         # the largest UDP can bring
    PDD_BUCKETS = 16
    RETRY_AFTER = 5          # seconds, in the 503 of a gateway that drains or has no room

cdef enum:
    RECEIVED                 # datagrams
    REQUESTS
    RESPONSES
    KEEP_ALIVES              # datagrams of nothing but line ends
    MALFORMED_REQUESTS       # answered with the status their fault calls for
    MALFORMED_DROPPED        # responses, ACKs, and requests nothing could be answered to
    STRANGERS_REFUSED
    STRANGERS_DROPPED
    RETRANSMISSIONS          # absorbed
    RETRANSMITTED            # sent
    CALLS                    # new INVITEs admitted
    FAILOVERS
    LATE_ANSWERS             # 2xx of an attempt that had been given up
    CANCELS
    ABANDONED_CANCELLED      # CANCELs to attempts that were given up and rang after all
    STATELESS_RESPONSES      # forwarded without a transaction: their branch verified
    FORGED_RESPONSES         # branch of ours, wrong MAC
    STRAY_RESPONSES          # match nothing
    STRANGER_RESPONSES       # from an address that is no peer's
    BAD_TOKENS               # Route tokens that failed their MAC
    LOOPS
    SHED_DRAINING
    SHED_OVERLOAD
    SHED_CAPACITY            # every destination at its max_calls or max_cps
    SHED_SOURCE              # a source above limits.source_cps
    SHED_ROUTES              # Routes to strangers above limits.refusals
    NO_DESTINATION
    BOUND_TRANSACTIONS
    BOUND_MEMORY
    BOUND_CALLS
    BOUND_EDITS              # messages that would need more changes than an edit list holds
    TIMEOUTS
    REFUSED                  # ICMP errors that ended an attempt
    SILENT
    HOOK_LATE                # the default policy decided: the hook's answer came too late
    REGISTERED               # bindings made
    REFRESHED
    UNREGISTERED
    EXPIRED
    FLOWS_LOST
    CHALLENGED               # 401 to a REGISTER without credentials, or with an old nonce
    WRONG_PASSWORDS
    TRIES_REFUSED            # too many wrong passwords from one source
    REPLAYS                  # a nonce used twice
    SHED_REGISTERS           # 503 with Retry-After to a REGISTER
    BOUND_BINDINGS
    MIRRORED_REGISTERS       # sent to servers
    MIRROR_FAILURES
    AGENT_CALLS              # requests outside a dialog sent to agents
    FLOW_FAILED              # 430
    STUN                     # keep-alives answered
    STREAMS_CLOSED           # connections that ended: nothing goes over them any more
    WRONG_EVENTS             # a state machine met what cannot happen
    COUNTERS


cdef enum:
    PARKED_REGISTERS = 1024  # that wait for the digests of their agents; beyond it: 503
    TRIES = 16384            # sources that gave a wrong password lately; a newer one takes the place of an older


cdef struct ParkedRegister:
    int64_t handle           # of its server transaction; 0: the place is free
    uint64_t account
    Flow source


cdef struct Tries:
    uint64_t key
    RateLimit left


cdef struct Registrar:
    ParkedRegister parked[PARKED_REGISTERS]
    Tries tries[TRIES]
    uint32_t nonces          # given so far
    uint32_t dice            # for times that are spread
    uint8_t algorithms       # that every account has: what one we do not know is offered
    uint32_t sweep           # where the search for bindings that servers lack goes on
    int64_t sweep_at         # when it goes on; 0: every server is in step
    uint32_t asked           # bindings told to servers since the table's beginning
    uint32_t fresh           # of those looked at since then, those that were never asked about
    int64_t patience         # before a binding that a server did not take is offered again
    bint lacks[DESTINATIONS]     # servers that lacked one of those looked at since the table's beginning
    uint32_t look            # the binding that a server was asked about last
    bint lists[DESTINATIONS]     # servers that name in their answers what is registered
    bint lagging[DESTINATIONS]   # servers that lack bindings
    bint refused[DESTINATIONS]   # servers that refused a datagram and have not answered since
    uint32_t asking[DESTINATIONS]  # REGISTERs of ours on their way to each server
    int64_t lag_since[DESTINATIONS]


cdef struct Histogram:
    uint64_t bucket[PDD_BUCKETS + 1]
    uint64_t count
    int64_t sum


cdef struct Received:        # a datagram that was read
    ParsedMessage message
    bint sound
    uint64_t key[2]          # of a request's server transaction


cdef struct Proxy:
    const PlatformView* view
    KeyRing keys
    uint64_t secret[2]       # of this process's tables; never in a header
    Transactions transactions
    Targets targets
    Outbox outbox
    Events events
    Events streams           # messages that go out over connections, which the control thread holds
    Edits edits
    RateLimit refusals       # 403s to strangers
    RateLimit strange_routes  # requests that an explicit Route sends to strangers
    Histogram pdd
    uint64_t counters[COUNTERS]
    uint64_t responses[7]    # by class, sent to the caller's side
    uint32_t pending         # INVITE server transactions without a final response
    bint overloaded          # the worker cannot keep up: shed new calls
    bint hurried             # something came that is no REGISTER: it should not wait for more
    bint crowded             # the worker has much to do: registrations wait, so that calls need not
    Bindings bindings
    Accounts accounts
    Registrar registrar
    Events journal           # changes of bindings
    int64_t now
    Received received[2]     # the one that came, and the one behind it
    ParsedMessage stored     # one that was kept, read again
    uint8_t datagram[DATAGRAM + 64]  # of Engine.receive(), which copies; the worker's lie in its own batch
    uint8_t scratch[DATAGRAM + 64]
    int64_t swept            # when calls whose BYE never came were last looked for
