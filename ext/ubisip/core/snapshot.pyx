# SPDX-License-Identifier: Apache-2.0
"""All that the core knows of the platform, immutable: listeners, destinations, sources, policy."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from ubisip.core.address cimport ANY_STREAM, Address, Flow, address_from_text, is_ipv4, parse_ip, same_address, same_ip
from ubisip.core.digest cimport ALGORITHM_MD5, ALGORITHM_SHA256, ALGORITHM_SHA512_256
from ubisip.core.span cimport Span, fold, same_name
from ubisip.core.token cimport SipHash, siphash_add, siphash_end, siphash_init
from ubisip.core.uri cimport SCHEME_SIP, SCHEME_SIPS, Uri, uri_parameter

from ubisip.platform import DestinationState, Kind, Switch

MAX_DESTINATIONS = DESTINATIONS

POLICIES = {"hash": POLICY_HASH, "least-calls": POLICY_LEAST_CALLS, "round-robin": POLICY_ROUND_ROBIN,
            "weighted": POLICY_WEIGHTED}
MIRRORS = {"off": MIRROR_OFF, "site": MIRROR_SITE, "platform": MIRROR_PLATFORM}
ALGORITHM_NUMBERS = {"MD5": ALGORITHM_MD5, "SHA-256": ALGORITHM_SHA256, "SHA-512-256": ALGORITHM_SHA512_256}
TRANSPORTS = {"udp": TRANSPORT_UDP, "tcp": TRANSPORT_TCP, "tls": TRANSPORT_TLS, "ws": TRANSPORT_WS,
              "wss": TRANSPORT_WSS}
URI_TRANSPORTS = {"udp": "", "tcp": ";transport=tcp", "tls": ";transport=tls", "ws": ";transport=ws",
                  "wss": ";transport=ws"}  # RFC 7118 section 5.2.4: wss is of the Via alone
SWITCHES = {Switch.READY: SWITCH_READY, Switch.DRAIN: SWITCH_DRAIN, Switch.MAINTENANCE: SWITCH_MAINTENANCE}


cdef uint32_t name_id(str name):
    """The same 32 bits for a name on every gateway; never 0, which stands for nobody."""
    cdef uint64_t key[2]
    cdef SipHash h
    cdef bytes text = name.encode()
    cdef bytes padded = text + bytes(8)
    key[0] = key[1] = 0
    siphash_init(&h, key)
    siphash_add(&h, <const uint8_t*><char*>padded, <uint32_t>len(text))
    return <uint32_t>siphash_end(&h) or 1


cdef int64_t microseconds(seconds) except? -1:
    return <int64_t>(float(seconds) * 1e6)


cdef void set_text(Text* out, str text) except *:
    cdef bytes octets = text.encode()
    if len(octets) > TEXT:
        raise ValueError(f"{text!r} is longer than {TEXT} octets")
    out.length = <uint32_t>len(octets)
    memcpy(out.text, <char*>octets, out.length)


cdef inline uint32_t source_hash(const Address* address) noexcept nogil:
    cdef uint64_t low, high
    memcpy(&low, address.ip, 8)
    memcpy(&high, address.ip + 8, 8)
    low = (low ^ high ^ <uint64_t>address.port << 16) * <uint64_t>0x9E3779B97F4A7C15
    return <uint32_t>(low >> 32)


cdef int find_exact(const PlatformView* view, const Address* address) noexcept nogil:
    cdef uint32_t at = source_hash(address) & view.source_mask
    while view.sources[at].slot >= 0:
        if same_address(&view.sources[at].address, address):
            return view.sources[at].slot
        at = (at + 1) & view.source_mask
    return -1


cdef bint in_network(const Network* network, const Address* address, bint any_port) noexcept nogil:
    cdef int whole = network.bits // 8, rest = network.bits % 8
    if network.port and network.port != address.port and not any_port:
        return False
    if network.ipv4 != is_ipv4(address):
        return False
    if memcmp(network.ip, address.ip, whole) != 0:
        return False
    return rest == 0 or (network.ip[whole] ^ address.ip[whole]) >> (8 - rest) == 0


cdef int find_source(const PlatformView* view, const Address* address, bint any_port) noexcept nogil:
    """Slot of the peer that may send from *address*, the most specific source first; -1: a stranger.

    With *any_port* the port tells nothing, as that of a connection somebody opened.
    """
    cdef Address whole = address[0]
    cdef int slot = find_exact(view, address)
    cdef uint32_t i
    if slot >= 0:
        return slot
    whole.port = 0
    slot = find_exact(view, &whole)
    if slot >= 0:
        return slot
    if any_port:
        for i in range(view.source_mask + 1):
            if view.sources[i].slot >= 0 and same_ip(&view.sources[i].address, address):
                return view.sources[i].slot
    for i in range(<uint32_t>view.network_count):
        if in_network(&view.networks[i], address, any_port):
            return view.networks[i].slot
    return -1


cdef int find_peer(const PlatformView* view, const Flow* flow) noexcept nogil:
    """Slot of the peer a message came from; -1: a stranger."""
    return find_source(view, &flow.peer, flow.stream != 0)


cdef bint is_peers(const PlatformView* view, const Address* address) noexcept nogil:
    """A destination's address, or one that a peer may send from, whatever its port."""
    return find_destination_address(view, address) >= 0 or find_source(view, address, True) >= 0


cdef void set_hop(const PlatformView* view, int slot, Flow* hop) noexcept nogil:
    """The way to a destination."""
    hop.peer = view.destinations[slot].address
    hop.listener = view.destinations[slot].listener
    hop.stream = ANY_STREAM if view.destinations[slot].stream else 0


cdef int find_destination(const PlatformView* view, uint32_t id) noexcept nogil:
    cdef int slot
    for slot in range(view.destination_count):
        if view.destinations[slot].present and view.destinations[slot].id == id:
            return slot
    return -1


cdef int find_destination_address(const PlatformView* view, const Address* address) noexcept nogil:
    cdef int slot
    for slot in range(view.destination_count):
        if view.destinations[slot].present and same_address(&view.destinations[slot].address, address):
            return slot
    return -1


cdef bint same_text(const Text* text, const uint8_t* data, Span span) noexcept nogil:
    """The same but for case."""
    cdef uint32_t i
    if text.length != span.length:
        return False
    if memcmp(text.text, data + span.at, span.length) == 0:
        return True
    for i in range(span.length):
        if fold(data[span.at + i]) != fold(<uint8_t>text.text[i]):
            return False
    return True


cdef int find_destination_host(const PlatformView* view, const uint8_t* data, const Uri* uri) noexcept nogil:
    """Slot of the destination whose URI has this host and port as written."""
    cdef int slot
    for slot in range(view.destination_count):
        if view.destinations[slot].present and same_text(&view.destinations[slot].hostport, data, uri.hostport):
            return slot
    return -1


cdef uint16_t default_port(Transport transport) noexcept nogil:
    """RFC 3261 section 19.1.2, RFC 7118 section 5.2.3."""
    if transport == TRANSPORT_TLS:
        return 5061
    if transport == TRANSPORT_WS:
        return 80
    return 443 if transport == TRANSPORT_WSS else 5060


cdef Transport uri_transport(const uint8_t* data, const Uri* uri, bint* known) noexcept nogil:
    """By its transport parameter; sips asks for TLS beneath (section 26.2.2). Not *known*: one that nobody here serves.
    """
    cdef bint secure = uri.scheme == SCHEME_SIPS
    cdef Span value
    known[0] = True
    if uri.parameters.length == 0 or not uri_parameter(data, uri, b"transport", 9, &value):
        return TRANSPORT_TLS if secure else TRANSPORT_UDP
    if same_name(data, value, b"tcp", 3):
        return TRANSPORT_TLS if secure else TRANSPORT_TCP
    if same_name(data, value, b"tls", 3):
        return TRANSPORT_TLS
    if same_name(data, value, b"ws", 2):
        return TRANSPORT_WSS if secure else TRANSPORT_WS
    known[0] = not secure and same_name(data, value, b"udp", 3)
    return TRANSPORT_UDP


cdef bint is_own(const PlatformView* view, const uint8_t* data, const Uri* uri) noexcept nogil:
    """The URI's host and port name this gateway."""
    cdef bint known
    cdef uint16_t port = uri.port if uri.port else default_port(uri_transport(data, uri, &known))
    cdef Address address
    cdef int i
    if uri.scheme != SCHEME_SIP and uri.scheme != SCHEME_SIPS:
        return False
    for i in range(view.alias_count):
        if view.aliases[i].port == port and same_text(&view.aliases[i].host, data, uri.host):
            return True
    if not parse_ip(data, uri.host, &address):
        return False
    address.port = port
    for i in range(view.listener_count):
        if view.listeners[i].address.port != port:
            continue
        if same_ip(&view.listeners[i].address, &address):
            return True
        # Behind a wildcard any address may be ours, unless we know whose it is.
        if view.listeners[i].wildcard and find_destination_address(view, &address) < 0:
            return True
    return False


cdef bint is_gateway(const PlatformView* view, const Flow* flow) noexcept nogil:
    """It comes from an address of a gateway of ours."""
    cdef int i
    for i in range(view.gateway_count):
        if same_ip(&view.gateways[i], &flow.peer) and view.gateways[i].port == (
                0 if flow.stream else flow.peer.port):
            return True
    return False


cdef uint32_t shared_bits(const Address* a, const Address* b) noexcept nogil:
    """How many leading octets two addresses share: the fit of a listener's network."""
    cdef uint32_t i
    if is_ipv4(a) != is_ipv4(b):
        return 0
    for i in range(16):
        if a.ip[i] != b.ip[i]:
            return i + 1
    return 17


cdef int listener_for(const PlatformView* view, const Address* address, int preferred,
                      Transport transport) noexcept nogil:
    """The listener to send from: the nearest by network of the transport and family, *preferred* among equals."""
    cdef int i, best = -1
    cdef uint32_t fit, best_fit = 0
    for i in range(view.listener_count):
        if view.listeners[i].transport != transport:
            continue
        fit = shared_bits(&view.listeners[i].address, address)
        if fit > best_fit or (fit == best_fit and best >= 0 and i == preferred):
            best = i
            best_fit = fit
    return best


cdef bint is_domain(const PlatformView* view, const uint8_t* data, Span host) noexcept nogil:
    """Its agents register here."""
    cdef int i
    for i in range(view.agents.domain_count):
        if same_text(&view.agents.domains[i], data, host):
            return True
    return False


cdef bint is_mirror(const PlatformView* view, int slot) noexcept nogil:
    """A server that registrations are passed on to."""
    cdef const Destination* destination = &view.destinations[slot]
    return destination.present and destination.side == SIDE_SERVER and view.agents.enabled and (
        view.agents.mirror == MIRROR_PLATFORM or (view.agents.mirror == MIRROR_SITE and not destination.far))


cdef bint is_emergency_number(const PlatformView* view, const uint8_t* data, Span user) noexcept nogil:
    cdef int i
    for i in range(view.emergency_count):
        if same_text(&view.emergency[i], data, user):
            return True
    return False


def split_advertise(advertise: str) -> tuple[str, str]:
    """``host:port`` or ``host`` into the two, the port empty when it is not written."""
    host, colon, port = advertise.rpartition(":")
    return (host, port) if colon and port.isdigit() else (advertise, "")


def advertised_port_of(endpoint, port: str) -> int:
    """The port in ``advertise`` is that of udp and tcp; listeners of other transports stand on ports of their own."""
    return int(port) if port and endpoint.transport in ("udp", "tcp") else endpoint.port


class Slots:
    """Remembers which slot of the core's tables belongs to which destination name, across reloads."""

    def __init__(self) -> None:
        self.names = []

    def slot(self, name: str) -> int:
        """The slot of *name*, given out at its first use.

        :raises OverflowError: more than MAX_DESTINATIONS names were ever used.
        """
        if name in self.names:
            return self.names.index(name)
        if len(self.names) == DESTINATIONS:
            raise OverflowError(f"more than {DESTINATIONS} carriers and servers, those gone by reload included")
        self.names.append(name)
        return len(self.names) - 1

    def name(self, slot: int) -> str:
        return self.names[slot]


cdef class Snapshot:
    """All that the core knows of the platform at one moment, immutable."""

    def __cinit__(self, config, str node, slots, states=None, *, addresses=None, bint draining=False, bint hook=False,
                  bint record=False, bint credentials_complete=False, double wall=0):
        self.view = <PlatformView*>calloc(1, sizeof(PlatformView))
        if self.view == NULL:
            raise MemoryError
        gateway = config.gateway(node)
        self.set_routing(config)
        self.view.draining = draining
        self.view.hook = hook
        self.view.record = record
        self.view.wall = <int64_t>(wall * 1e6)
        self.set_agents(config, credentials_complete)
        self.view.agents.gateway = 1 + list(config.gateways).index(gateway)
        self.set_listeners(gateway)
        self.set_aliases(config)
        for peer in config.peers:
            self.set_destination(peer, slots.slot(peer.name), gateway,
                                 (states or {}).get(peer.name) or DestinationState(),
                                 (addresses or {}).get(peer.name), config.routing.t1)
        self.set_sources(config, slots)

    def __dealloc__(self):
        if self.view != NULL:
            free(self.view.sources)
            free(self.view.networks)
            free(self.view)

    cdef set_routing(self, config):
        cdef PlatformView* view = self.view
        routing, limits = config.routing, config.limits
        view.policy = POLICIES[routing.policy]
        view.first_response_timeout = microseconds(routing.first_response_timeout)
        view.timer_c = microseconds(routing.timer_c)
        view.hook_timeout = microseconds(routing.hook_timeout)
        for status in routing.failover_on:
            view.failover_on[status] = 1
        if len(routing.emergency) > EMERGENCY:
            raise ValueError(f"more than {EMERGENCY} emergency numbers")
        for number in routing.emergency:
            set_text(&view.emergency[view.emergency_count], number)
            view.emergency_count += 1
        view.max_transactions = limits.transactions
        view.max_memory = <uint64_t>limits.memory << 20
        view.max_calls = limits.calls
        view.source_cps = limits.source_cps
        view.refusals = limits.refusals

    cdef set_agents(self, config, bint credentials_complete):
        cdef AgentsView* view = &self.view.agents
        agents = config.agents
        if agents is None:
            return
        view.enabled = True
        view.credentials_complete = credentials_complete
        set_text(&view.realm, agents.realm)
        if len(agents.domains) > DOMAINS:
            raise ValueError(f"more than {DOMAINS} domains of agents")
        for domain in agents.domains:
            set_text(&view.domains[view.domain_count], domain.lower())
            view.domain_count += 1
        for name in agents.algorithms:
            view.algorithms[view.algorithm_count] = ALGORITHM_NUMBERS[name]
            view.algorithm_count += 1
            view.offered |= 1 << ALGORITHM_NUMBERS[name]
        view.service_route = agents.service_route
        view.mirror = MIRRORS[agents.mirror]
        view.mirror_quorum = agents.mirror_quorum
        view.min_expires = agents.min_expires
        view.default_expires = agents.default_expires
        view.max_expires = agents.max_expires
        view.max_contacts = agents.max_contacts
        view.max_bindings = config.limits.bindings
        view.max_shared = config.limits.bindings if config.store.soft else 0

    cdef add_alias(self, str host, int port):
        cdef Alias* alias
        if self.view.alias_count == ALIASES:
            raise ValueError(f"a gateway answers to at most {ALIASES} names")
        alias = &self.view.aliases[self.view.alias_count]
        set_text(&alias.host, host.lower())
        alias.port = <uint16_t>port
        self.view.alias_count += 1

    cdef set_listeners(self, gateway):
        cdef Listener* listener
        host, port = split_advertise(gateway.advertise)
        for endpoint in gateway.listen:
            if self.view.listener_count == LISTENERS:
                raise ValueError(f"a gateway has at most {LISTENERS} listeners")
            listener = &self.view.listeners[self.view.listener_count]
            self.view.listener_count += 1
            listener.transport = TRANSPORTS[endpoint.transport]
            listener.stream = listener.transport != TRANSPORT_UDP
            if not address_from_text(endpoint.host, endpoint.port, &listener.address):
                raise ValueError(f"{endpoint} is no address")
            listener.wildcard = endpoint.host in ("0.0.0.0", "::")
            if listener.wildcard and not host:
                raise ValueError(
                    f"{endpoint}: a gateway that listens on every address must say which name to advertise")
            literal = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
            advertised = host or literal
            advertised_port = advertised_port_of(endpoint, port)
            hostport = advertised
            if advertised == literal or advertised_port != 5060 or endpoint.transport not in ("udp", "tcp"):
                hostport = f"{advertised}:{advertised_port}"
            set_text(&listener.record_route, hostport + URI_TRANSPORTS[endpoint.transport])
            sent_by = hostport if listener.wildcard else f"{literal}:{endpoint.port}"
            # RFC 5923 section 5.1: we take requests on connections that we opened, too.
            alias = ";alias" if listener.transport == TRANSPORT_TLS else ""
            set_text(&listener.via, f"SIP/2.0/{endpoint.transport.upper()} {sent_by}{alias}")

    cdef set_aliases(self, config):
        """A call that a carrier sends to a gateway of ours other than the one in its Request-URI is for us too."""
        cdef PlatformView* view = self.view
        for gateway in config.gateways:
            host, port = split_advertise(gateway.advertise)
            for endpoint in gateway.listen:
                if address_from_text(endpoint.host, endpoint.port if endpoint.transport == "udp" else 0,
                                     &view.gateways[view.gateway_count]):
                    view.gateway_count += 1
                self.add_alias(f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host, endpoint.port)
                if host:
                    self.add_alias(host, advertised_port_of(endpoint, port))

    cdef set_destination(self, peer, int slot, gateway, state, address, t1):
        cdef Destination* destination = &self.view.destinations[slot]
        cdef int i
        host = peer.endpoint.host
        if not address_from_text(host, peer.endpoint.port, &destination.address):
            if address is None or not address_from_text(address, peer.endpoint.port, &destination.address):
                return  # a name that does not resolve: no calls go there, and its health says so
        destination.present = True
        destination.id = name_id(peer.name)
        destination.side = SIDE_CARRIER if peer.kind is Kind.CARRIER else SIDE_SERVER
        destination.far = peer.site != gateway.site
        literal = f"[{host}]" if ":" in host else host
        set_text(&destination.hostport, f"{literal}:{peer.endpoint.port}")
        destination.weight = peer.weight * state.ramp
        destination.usable = state.usable
        destination.switch = SWITCHES[state.switch]
        destination.max_calls = peer.max_calls
        destination.max_cps = peer.max_cps
        # T1 may be shorter than 500 ms only in networks of our own (RFC 3261 section 17.1.1.1).
        destination.t1 = microseconds(t1 if peer.kind is Kind.SERVER else 0.5)
        destination.transport = TRANSPORTS[peer.endpoint.transport]
        destination.stream = destination.transport != TRANSPORT_UDP
        destination.tcp = peer.tcp
        destination.listener = <uint8_t>max(0, listener_for(self.view, &destination.address, 0, destination.transport))
        for i, endpoint in enumerate(gateway.listen):
            if peer.listener and str(endpoint) == peer.listener:
                destination.listener = <uint8_t>i
        self.view.destination_count = max(self.view.destination_count, slot + 1)

    cdef add_source(self, const Address* address, int slot):
        cdef uint32_t at = source_hash(address) & self.view.source_mask
        while self.view.sources[at].slot >= 0:
            if same_address(&self.view.sources[at].address, address):
                return
            at = (at + 1) & self.view.source_mask
        self.view.sources[at].address = address[0]
        self.view.sources[at].slot = slot

    cdef set_sources(self, config, slots):
        cdef PlatformView* view = self.view
        cdef Address address
        cdef Network* network
        cdef uint32_t size = 16, i
        cdef int slot
        entries = [(source, slots.slot(peer.name)) for peer in config.peers for source in peer.sources]
        if len(entries) > SOURCES:
            raise ValueError(f"more than {SOURCES} sources")
        while size < 2 * (len(entries) + DESTINATIONS):
            size *= 2
        view.sources = <Source*>calloc(size, sizeof(Source))
        view.networks = <Network*>calloc(len(entries) + 1, sizeof(Network))
        if view.sources == NULL or view.networks == NULL:
            raise MemoryError
        view.source_mask = size - 1
        for i in range(size):
            view.sources[i].slot = -1
        entries.sort(key=lambda entry: (-entry[0].network.prefixlen, entry[0].port is None))
        for source, slot in entries:
            address_from_text(str(source.network.network_address), source.port or 0, &address)
            if source.network.num_addresses == 1:
                self.add_source(&address, slot)
                continue
            network = &view.networks[view.network_count]
            view.network_count += 1
            memcpy(network.ip, address.ip, 16)
            network.bits = source.network.prefixlen + (96 if source.network.version == 4 else 0)
            network.port = source.port or 0
            network.slot = slot
            network.ipv4 = source.network.version == 4
        # The very address that requests go to is also one that may send.
        for slot in range(view.destination_count):
            if view.destinations[slot].present and find_source(view, &view.destinations[slot].address, False) < 0:
                self.add_source(&view.destinations[slot].address, slot)
