# SPDX-License-Identifier: Apache-2.0
"""Route information preprocessing (RFC 3261 section 16.4) and the next hop (section 16.6 step 7)."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

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
    uint64_t agent           # whom our Path in the Route set, or the binding that was chosen, leads to; 0: nobody
    uint32_t reg_id          # over which of his flows
    uint8_t number           # how many of his flows were tried before
    const uint8_t* target    # the Contact of the binding, for the Request-URI; NULL: it stays
    uint32_t target_length
    const uint8_t* path      # the Path of the binding, for the Route set
    uint32_t path_length
    uint32_t breadth         # Max-Breadth of this branch of a fork (RFC 5393); 0: it stays as it came
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
cdef bint resolve(Proxy* p, const uint8_t* data, const Uri* uri, Flow* hop, int* slot) noexcept nogil
