# SPDX-License-Identifier: Apache-2.0
"""Route information preprocessing (RFC 3261 section 16.4) and the next hop (section 16.6 step 7)."""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memset

from ubisip.core.address cimport ANY_STREAM, Flow, is_routable, parse_ip
from ubisip.core.headers cimport NameAddr, parse_name_addr
from ubisip.core.message cimport HEADER_ROUTE, ParsedMessage, next_header
from ubisip.core.proxy cimport Proxy
from ubisip.core.snapshot cimport (
    TRANSPORT_UDP, TRANSPORT_WS, TRANSPORT_WSS, Transport, default_port, find_destination_address,
    find_destination_host, is_own, listener_for, set_hop, uri_transport,
)
from ubisip.core.span cimport Span, span_of
from ubisip.core.token cimport FLOW_TOKEN_LENGTH, read_flow_token, read_token
from ubisip.core.uri cimport SCHEME_SIP, SCHEME_SIPS, Uri, parse_uri, uri_parameter


cdef bint collect(const ParsedMessage* m, RoutePlan* plan) noexcept nogil:
    """Every Route value in order, of however many lines; False: one breaks the grammar, or they are too many."""
    cdef int line = m.first[HEADER_ROUTE]
    cdef uint32_t at, end
    cdef NameAddr value
    while line >= 0:
        at = m.headers[line].value
        end = at + m.headers[line].value_length
        while at:
            if plan.count == MAX_ROUTES or not parse_name_addr(m.data, span_of(at, end), True, &value):
                return False
            plan.routes[plan.count] = value.value
            plan.uris[plan.count] = value.uri
            plan.count += 1
            at = value.next
        line = next_header(m, line)
    plan.end = plan.count
    return True


cdef TokenState check_token(Proxy* p, const ParsedMessage* m, const Uri* uri, Token* token) noexcept nogil:
    cdef Span text
    if not uri_parameter(m.data, uri, b"u", 1, &text):
        return TOKEN_NONE
    return TOKEN_GOOD if read_token(&p.keys, m.data, text, m.call_id, token) else TOKEN_BAD


cdef bint take_flow_token(Proxy* p, const ParsedMessage* m, const Uri* uri, RoutePlan* plan) noexcept nogil:
    """The value is the Path that a server was given (RFC 5626 section 5.3), which names an agent; False: altered."""
    cdef Span unused
    if not p.view.agents.enabled or not uri.has_user:
        return True
    if read_flow_token(&p.keys, m.data, uri.user, &plan.agent, &plan.reg_id):
        return True
    plan.agent = 0
    return not (uri.user.length == FLOW_TOKEN_LENGTH or uri_parameter(m.data, uri, b"ob", 2, &unused))


cdef bint take_request_uri(Proxy* p, const ParsedMessage* m, RoutePlan* plan) noexcept nogil:
    """A strict router upstream put our Record-Route value into the Request-URI: the last Route value belongs there.

    False: that value is no URI.
    """
    cdef Span unused
    plan.uri = m.uri
    plan.request_uri = m.request_uri
    if plan.count == 0 or not uri_parameter(m.data, &m.request_uri, b"lr", 2, &unused):
        return True
    if not is_own(p.view, m.data, &m.request_uri):
        return True
    plan.token_state = check_token(p, m, &m.request_uri, &plan.token)
    plan.uri_moved = True
    plan.end -= 1
    plan.uri = plan.uris[plan.end]
    return parse_uri(m.data, plan.uri, &plan.request_uri)


cdef void read_maddr(Proxy* p, const ParsedMessage* m, RoutePlan* plan) noexcept nogil:
    cdef Uri uri = plan.request_uri
    cdef Span value
    if uri.parameters.length == 0 or not uri_parameter(m.data, &uri, b"maddr", 5, &value) or value.length == 0:
        return
    uri.host = value
    if is_own(p.view, m.data, &uri):
        plan.own_maddr = value
    else:
        plan.maddr = value


cdef int preprocess(Proxy* p, const ParsedMessage* m, RoutePlan* plan) noexcept nogil:
    """Take our own values off the Route set and find what is next. Gives 0, or the status to answer."""
    cdef Uri uri
    cdef Token token
    cdef TokenState state
    cdef Span unused
    memset(&token, 0, sizeof(Token))
    memset(plan, 0, sizeof(RoutePlan) - sizeof(plan.routes) - sizeof(plan.uris))
    if not collect(m, plan) or not take_request_uri(p, m, plan):
        return 400
    if plan.token_state == TOKEN_BAD:
        return 403
    while plan.first < plan.end:
        if plan.first == MAX_OWN_ROUTES:
            return 400
        if not parse_uri(m.data, plan.uris[plan.first], &uri):
            return 400
        state = check_token(p, m, &uri, &token)
        # Another gateway's value is ours when its token verifies: any gateway continues any call. A second value of its
        # double Record-Route has the same token; one with another is of a gateway behind it.
        if not is_own(p.view, m.data, &uri) and not (state == TOKEN_GOOD and (plan.first == 0 or memcmp(
                &token, &plan.token, sizeof(Token)) == 0)):
            plan.has_route = True
            plan.route = plan.uris[plan.first]
            plan.route_uri = uri
            plan.loose = uri_parameter(m.data, &uri, b"lr", 2, &unused)
            break
        if state == TOKEN_BAD:
            plan.token_state = TOKEN_BAD
            return 403
        if plan.agent == 0 and not take_flow_token(p, m, &uri, plan):
            plan.token_state = TOKEN_BAD
            return 403
        if plan.token_state == TOKEN_NONE:
            plan.token_state = state
            plan.token = token
        plan.first += 1
    read_maddr(p, m, plan)
    plan.own = is_own(p.view, m.data, &plan.request_uri)
    return 0


cdef bint resolve(Proxy* p, const uint8_t* data, const Uri* uri, Flow* hop, int* slot) noexcept nogil:
    """The address of a URI: a literal, or the name of a destination of the platform. False: the core cannot know it.

    *slot* is the destination that has this address, -1 when none has; *hop* leaves from the listener that fits.
    """
    cdef int listener
    cdef Transport transport
    cdef bint known
    if uri.scheme != SCHEME_SIP and uri.scheme != SCHEME_SIPS:
        return False
    hop.stream = 0
    transport = uri_transport(data, uri, &known)
    if not known:
        return False
    if parse_ip(data, uri.host, &hop.peer):
        hop.peer.port = uri.port if uri.port else default_port(transport)
        if not is_routable(&hop.peer):
            return False
        slot[0] = find_destination_address(p.view, &hop.peer)
    else:
        slot[0] = find_destination_host(p.view, data, uri)
        if slot[0] < 0:
            return False
    if slot[0] >= 0 and p.view.destinations[slot[0]].transport == transport:
        set_hop(p.view, slot[0], hop)
        return True
    listener = listener_for(p.view, &hop.peer, hop.listener, transport)
    if listener < 0 and transport == TRANSPORT_WS:  # a sip URI does not tell which of both (RFC 7118 section 5.2.4)
        listener = listener_for(p.view, &hop.peer, hop.listener, TRANSPORT_WSS)
    if listener < 0:
        return False
    hop.listener = <unsigned char>listener
    hop.stream = 0 if transport == TRANSPORT_UDP else ANY_STREAM
    return True
