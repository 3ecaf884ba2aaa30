# SPDX-License-Identifier: Apache-2.0
"""All that the core knows of the platform, immutable: listeners, destinations, sources, policy."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ubisip.core.address cimport Address, Flow
from ubisip.core.span cimport Span
from ubisip.core.uri cimport Uri

cdef enum:
    LISTENERS = 16           # listeners of one gateway
    DESTINATIONS = 256       # carriers and servers of one platform, those gone by reload included
    SOURCES = 4096           # addresses and networks that may send
    ALIASES = 256            # names and addresses that stand for this gateway: those of all gateways
    EMERGENCY = 64           # emergency numbers
    TEXT = 96                # octets of a "host:port"
    DOMAINS = 16             # domains whose agents register here

cdef enum Policy:
    POLICY_HASH
    POLICY_LEAST_CALLS
    POLICY_ROUND_ROBIN
    POLICY_WEIGHTED

cdef enum Side:
    SIDE_CARRIER
    SIDE_SERVER

cdef enum OperatorSwitch:
    SWITCH_READY
    SWITCH_DRAIN
    SWITCH_MAINTENANCE

cdef enum Transport:
    TRANSPORT_UDP
    TRANSPORT_TCP
    TRANSPORT_TLS
    TRANSPORT_WS
    TRANSPORT_WSS

cdef struct Text:
    char text[TEXT]
    uint32_t length

cdef struct Listener:
    Transport transport
    bint wildcard            # 0.0.0.0 or [::]
    bint stream              # any transport but udp: its connections are the control thread's
    Address address
    Text via                 # sent-protocol and sent-by of the Via we add
    Text record_route        # hostport of the Record-Route we add

cdef struct Destination:
    bint present
    uint32_t id              # the same on every gateway: a hash of the name
    Side side
    bint far                 # of another site than ours
    Address address
    uint8_t listener
    Transport transport
    bint stream              # reached over a connection
    bint tcp                 # reached by datagrams, but for requests that are too large for them
    Text hostport            # for the Request-URI
    double weight            # ramp included
    bint usable
    OperatorSwitch switch
    uint32_t max_calls
    double max_cps
    int64_t t1               # microseconds

cdef struct Source:
    Address address          # port 0: any
    int slot                 # -1: the place in the table is free

cdef struct Network:
    uint8_t ip[16]
    int bits
    bint ipv4
    uint16_t port
    int slot

cdef struct Alias:
    Text host                # lower case
    uint16_t port

cdef enum Mirror:
    MIRROR_OFF               # calls to agents are looked up here
    MIRROR_SITE
    MIRROR_PLATFORM

cdef struct AgentsView:      # [agents] of the configuration
    bint enabled
    bint credentials_complete  # an agent whose digests the core does not have does not exist: nobody is asked
    Text realm
    Text domains[DOMAINS]    # lower case
    int domain_count
    int algorithms[3]        # that are offered, in this order
    int algorithm_count
    int offered              # a bit for each of them
    bint service_route       # phones are told to send everything through the gateway
    Mirror mirror
    uint32_t mirror_quorum
    uint32_t min_expires     # seconds
    uint32_t default_expires
    uint32_t max_expires
    uint32_t max_contacts
    uint32_t max_bindings
    uint32_t max_shared      # bindings that other gateways of the site hold
    uint32_t gateway         # our number in the configuration, from 1

cdef struct PlatformView:
    AgentsView agents
    int64_t wall             # microseconds from the clock of `now` to that of the wall, when this view was made
    Listener listeners[LISTENERS]
    int listener_count
    Destination destinations[DESTINATIONS]
    int destination_count    # one past the highest slot present
    Source* sources          # exact addresses, open addressing
    uint32_t source_mask
    Network* networks        # the longest prefix first
    int network_count
    Alias aliases[ALIASES]
    int alias_count
    Address gateways[ALIASES]  # where gateways send from; port 0: any, of a connection
    int gateway_count
    Text emergency[EMERGENCY]
    int emergency_count
    uint8_t failover_on[700]
    Policy policy
    int64_t first_response_timeout   # microseconds, as all times
    int64_t timer_c
    int64_t hook_timeout
    uint32_t max_transactions
    uint64_t max_memory
    uint32_t max_calls
    double source_cps
    double refusals
    bint draining
    bint hook
    bint record

cdef class Snapshot:
    cdef PlatformView* view
    cdef set_routing(self, config)
    cdef add_alias(self, str host, int port)
    cdef set_agents(self, config, bint credentials_complete)
    cdef set_listeners(self, gateway)
    cdef set_aliases(self, config)
    cdef set_destination(self, peer, int slot, gateway, state, address, t1)
    cdef add_source(self, const Address* address, int slot)
    cdef set_sources(self, config, slots)

cdef int find_source(const PlatformView* view, const Address* address, bint any_port) noexcept nogil
cdef bint is_peers(const PlatformView* view, const Address* address) noexcept nogil
cdef int find_peer(const PlatformView* view, const Flow* flow) noexcept nogil
cdef void set_hop(const PlatformView* view, int slot, Flow* hop) noexcept nogil
cdef int find_destination(const PlatformView* view, uint32_t id) noexcept nogil
cdef int find_destination_address(const PlatformView* view, const Address* address) noexcept nogil
cdef int find_destination_host(const PlatformView* view, const uint8_t* data, const Uri* uri) noexcept nogil
cdef bint is_own(const PlatformView* view, const uint8_t* data, const Uri* uri) noexcept nogil
cdef bint is_gateway(const PlatformView* view, const Flow* flow) noexcept nogil
cdef bint is_domain(const PlatformView* view, const uint8_t* data, Span host) noexcept nogil
cdef bint is_mirror(const PlatformView* view, int slot) noexcept nogil
cdef int listener_for(const PlatformView* view, const Address* address, int preferred,
                      Transport transport) noexcept nogil
cdef uint16_t default_port(Transport transport) noexcept nogil
cdef Transport uri_transport(const uint8_t* data, const Uri* uri, bint* known) noexcept nogil
cdef bint is_emergency_number(const PlatformView* view, const uint8_t* data, Span user) noexcept nogil
