# SPDX-License-Identifier: Apache-2.0
"""Where a request goes (RFC 3261 sections 16.4 and 16.5), before a destination is chosen."""
from libc.stdint cimport uint32_t, uint64_t

from ubisip.core.address cimport Address, Flow, parse_ip
from ubisip.core.agents cimport agent_hop, is_agent_id
from ubisip.core.identity cimport tag_hash
from ubisip.core.message cimport ParsedMessage
from ubisip.core.proxy cimport SHED_ROUTES, Proxy
from ubisip.core.route cimport TOKEN_GOOD, RoutePlan, resolve
from ubisip.core.snapshot cimport (
    SIDE_CARRIER, SIDE_SERVER, TRANSPORT_TLS, TRANSPORT_WSS, Side, Transport, find_destination, find_source, set_hop,
)
from ubisip.core.targets cimport allow
from ubisip.core.transactions cimport PEER_AGENT, PEER_GATEWAY
from ubisip.core.uri cimport SCHEME_SIPS


cdef int token_hop(Proxy* p, const ParsedMessage* m, RoutePlan* plan, Flow* hop, int* slot) noexcept nogil:
    """In a dialog: to an agent by a flow of his, wherever his phone is by now; else the remote target when it is an
    address, else the peer that the token names (DESIGN section 5)."""
    cdef bint downstream = tag_hash(m, m.from_.tag) == plan.token.tag
    cdef uint64_t party = plan.token.callee if downstream else plan.token.caller
    hop.listener = plan.token.callee_listener if downstream else plan.token.caller_listener
    if hop.listener >= p.view.listener_count:
        hop.listener = 0
    if is_agent_id(party) and agent_hop(p, party, 0, False, plan, hop):
        if plan.reg_id <= 0xFFFF:
            plan.path_length = 0  # the dialog's own route set says the way, but to a flow that another gateway holds
        return 0
    if not plan.own and resolve(p, m.data, &plan.request_uri, hop, slot):
        return 0
    if is_agent_id(party):
        return 430
    slot[0] = find_destination(p.view, <uint32_t>party)
    if slot[0] < 0:
        return 404
    set_hop(p.view, slot[0], hop)
    return 0


cdef int side_across(const Proxy* p, int peer) noexcept nogil:
    """The side whose destinations a request goes to: from carriers and agents to servers, from servers to carriers."""
    return SIDE_SERVER if peer < 0 or p.view.destinations[peer].side == SIDE_CARRIER else SIDE_CARRIER


cdef bint is_across(Proxy* p, int peer, int slot) noexcept nogil:
    """On the other side: a peer of the caller's own side is no way out (toll fraud)."""
    return slot >= 0 and p.view.destinations[slot].side == <Side>side_across(p, peer)


cdef bint is_member(Proxy* p, const Flow* hop, int slot) noexcept nogil:
    """A destination, or an address that may send to us."""
    return slot >= 0 or find_source(p.view, &hop.peer, False) >= 0


cdef bint follow(Proxy* p) noexcept nogil:
    """A Route to a stranger without a token is followed, as RFC 3261 asks, but at the rate at which strangers are
    answered: whoever forges a peer's address has little use of us."""
    if allow(&p.strange_routes, p.view.refusals, max(1.0, p.view.refusals), p.now):
        return True
    p.counters[SHED_ROUTES] += 1
    return False


cdef int next_hop(Proxy* p, const ParsedMessage* m, RoutePlan* plan, int peer, Flow* hop,
                  int* slot) noexcept nogil:
    """0: *hop* is where the request must go; NEW: a destination is to be chosen; else the status to answer."""
    cdef Address literal
    hop.stream = 0
    hop.listener = 0
    slot[0] = -1
    if plan.has_route:
        if not resolve(p, m.data, &plan.route_uri, hop, slot):
            return 404
        if plan.token_state == TOKEN_GOOD:
            return 0
        if peer <= PEER_AGENT and is_member(p, hop, slot[0]):
            return 0 if is_across(p, peer, slot[0]) else 403  # past the servers there is no way out for a phone
        return 0 if is_member(p, hop, slot[0]) or follow(p) else 403
    if plan.token_state == TOKEN_GOOD:
        return token_hop(p, m, plan, hop, slot)
    if plan.agent:
        return 0 if agent_hop(p, plan.agent, plan.reg_id, peer == PEER_GATEWAY, plan, hop) else 430
    if plan.maddr.length:
        return 403  # a foreign maddr is the only target (section 16.5), and no peer of ours is named that way
    if plan.own:
        return NEW
    if m.to.tag.length and resolve(p, m.data, &plan.request_uri, hop, slot) and is_member(p, hop, slot[0]) and \
            (peer > PEER_AGENT or is_across(p, peer, slot[0])):
        return 0
    if parse_ip(m.data, plan.request_uri.host, &literal):
        # A literal of no peer of ours: we are no relay for strangers' addresses.
        return 0 if resolve(p, m.data, &plan.request_uri, hop, slot) and is_across(p, peer, slot[0]) else 403
    return NEW


cdef int secured(const Proxy* p, const ParsedMessage* m, const Flow* hop, int status) noexcept nogil:
    """A sips Request-URI asks for TLS on every hop (section 26.2.2): 416 where the next is in the clear, or is still to
    be chosen among some that are; else *status*."""
    cdef Transport transport
    if m.request_uri.scheme != SCHEME_SIPS or (status != 0 and status != NEW):
        return status
    if status == 0 and hop.stream:
        transport = p.view.listeners[hop.listener].transport
        if transport == TRANSPORT_TLS or transport == TRANSPORT_WSS:
            return 0
    return 416


cdef const char* hop_reason(int status) noexcept nogil:
    if status == 416:
        return b"Unsupported URI Scheme"
    if status == 403:
        return b"Relaying Denied"
    if status == 404:
        return b"Next Hop Unknown"
    if status == 430:
        return b"Flow Failed"
    return b"Bad Route"
