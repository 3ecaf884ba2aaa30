# SPDX-License-Identifier: Apache-2.0
"""Route information preprocessing (RFC 3261 section 16.4) and the next hop (section 16.6 step 7)."""
from libc.stdint cimport uint32_t, uint64_t

from ubisip.core.address cimport Flow
from ubisip.core.message cimport ParsedMessage
from ubisip.core.proxy cimport Proxy
from ubisip.core.span cimport Span
from ubisip.core.token cimport Token
from ubisip.core.uri cimport Uri

cdef enum TokenState:
    TOKEN_NONE
    TOKEN_GOOD
    TOKEN_BAD


cdef enum:
    MAX_OWN_ROUTES = 8       # a double Record-Route takes two; each costs a MAC
    MAX_ROUTES = 64          # Max-Forwards is 70: a longer route set leads nowhere


cdef struct RoutePlan:
    TokenState token_state
    Token token
    Span uri                 # the Request-URI to go on with
    Uri request_uri          # the same, read
    bint uri_moved           # the Request-URI was our Record-Route value: the last Route value took its place
    bint own                 # it names this gateway
    Span own_maddr           # value of its maddr when that names this gateway, to be stripped (section 16.4)
    Span maddr               # value of its maddr when it names somebody else
    int first
    int end
    int count
    Span route               # URI of the first that goes on
    Uri route_uri
    bint has_route
    bint loose               # it has lr
    Span routes[MAX_ROUTES]  # the Route values as they came; those from first on, below end, go on
    Span uris[MAX_ROUTES]    # their URIs


cdef int preprocess(Proxy* p, const ParsedMessage* m, RoutePlan* plan) noexcept nogil
cdef bint resolve(Proxy* p, const ParsedMessage* m, const Uri* uri, Flow* hop, int* slot) noexcept nogil
