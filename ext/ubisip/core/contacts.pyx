# SPDX-License-Identifier: Apache-2.0
"""What a REGISTER says (RFC 3261 section 10.3, RFC 3327, RFC 5626): whose it is, its contacts, their times and Path."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ubisip.core.address cimport Address, Flow, parse_ip, same_ip
from ubisip.core.bindings cimport MAX_AOR, MAX_CONTACT, MAX_INSTANCE, MAX_PATH, Wanted, contact_hash
from ubisip.core.headers cimport NameAddr, parse_name_addr, read_parameter
from ubisip.core.message cimport HEADER_OTHER, METHOD_REGISTER, ParsedMessage, header_value
from ubisip.core.proxy cimport Proxy
from ubisip.core.snapshot cimport Text, is_domain, is_own, is_peers
from ubisip.core.span cimport Cursor, Span, cursor, find_octet, fold, same_name, skip_lws, span_of, take, take_number
from ubisip.core.syntax cimport CLASS_LWS, HEX_VALUE, character_is
from ubisip.core.uri cimport SCHEME_SIP, SCHEME_SIPS, Uri, parse_uri, uri_parameter


cdef enum:
    EXPIRES_MOST = 0x7FFFFFFF


# --- the header fields that only a registrar reads

cdef int field_of(const uint8_t* data, Span name) noexcept nogil:
    cdef uint8_t first = fold(data[name.at])
    if name.length == 1:
        return FIELD_CONTACT if first == 0x6D else (FIELD_SUPPORTED if first == 0x6B else FIELD_OTHER)
    if first == 0x63 and same_name(data, name, b"contact", 7):
        return FIELD_CONTACT
    if first == 0x65 and same_name(data, name, b"expires", 7):
        return FIELD_EXPIRES
    if first == 0x61 and same_name(data, name, b"authorization", 13):
        return FIELD_AUTHORIZATION
    if first == 0x72 and same_name(data, name, b"require", 7):
        return FIELD_REQUIRE
    if first == 0x73 and same_name(data, name, b"supported", 9):
        return FIELD_SUPPORTED
    if first == 0x70 and same_name(data, name, b"path", 4):
        return FIELD_PATH
    if first == 0x75 and same_name(data, name, b"user-agent", 10):
        return FIELD_USER_AGENT
    return FIELD_OTHER


cdef void name_fields(const ParsedMessage* m, Register* r) noexcept nogil:
    cdef int i
    cdef Span name
    for i in range(m.count):
        name = span_of(m.headers[i].line, m.headers[i].line + m.headers[i].name_length)
        r.field[i] = <uint8_t>field_of(m.data, name) if m.headers[i].id == HEADER_OTHER else FIELD_OTHER


cdef bint has_tag(const ParsedMessage* m, const Register* r, int field, const char* tag,
                  uint32_t length) noexcept nogil:
    """An option tag is among those of a header field."""
    cdef int i
    cdef uint32_t at, end, next
    for i in range(m.count):
        if r.field[i] != field:
            continue
        at = m.headers[i].value
        end = at + m.headers[i].value_length
        while at < end:
            next = find_octet(m.data, at, end, 0x2C)
            if same_name(m.data, trimmed(m.data, at, next), tag, length):
                return True
            at = next + 1
    return False


cdef Span trimmed(const uint8_t* data, uint32_t at, uint32_t end) noexcept nogil:
    while at < end and character_is(data[at], CLASS_LWS):
        at += 1
    while end > at and character_is(data[end - 1], CLASS_LWS):
        end -= 1
    return span_of(at, end)


cdef uint32_t put(uint8_t* out, uint32_t at, const char* text, uint32_t length) noexcept nogil:
    memcpy(out + at, text, length)
    return at + length


cdef bint refuse_extensions(const ParsedMessage* m, const Register* r, uint8_t* out) noexcept nogil:
    """An Unsupported line of the tags in Require that a registrar like this does not know; False: there is none."""
    cdef int i
    cdef uint32_t at, end, next, n = put(out, 0, b"Unsupported: ", 13)
    cdef Span tag
    cdef bint unknown = False
    for i in range(m.count):
        if r.field[i] != FIELD_REQUIRE:
            continue
        at = m.headers[i].value
        end = at + m.headers[i].value_length
        while at < end:
            next = find_octet(m.data, at, end, 0x2C)
            tag = trimmed(m.data, at, next)
            at = next + 1
            if tag.length == 0 or same_name(m.data, tag, b"path", 4) or same_name(m.data, tag, b"outbound", 8):
                continue
            unknown = True
            if n + tag.length > UNSUPPORTED_MOST - 8:
                continue
            if n > 13:
                n = put(out, n, b", ", 2)
            n = put_unfolded(out, n, m.data, tag)
    put(out, n, b"\r\n\0", 3)
    return unknown


# --- whose REGISTER it is

cdef bint names_us(const Proxy* p, const uint8_t* data, const Uri* uri) noexcept nogil:
    return is_domain(p.view, data, uri.host) or is_own(p.view, data, uri)


cdef bint is_for_registrar(const Proxy* p, const ParsedMessage* m) noexcept nogil:
    return p.view.agents.enabled and m.method == METHOD_REGISTER and names_us(p, m.data, &m.request_uri)


cdef bint is_escape(const uint8_t* data, uint32_t at, uint32_t end) noexcept nogil:
    """"%" HEXDIG HEXDIG, in either case of letters."""
    return data[at] == 0x25 and end - at > 2 and HEX_VALUE[fold(data[at + 1])] < 16 and \
        HEX_VALUE[fold(data[at + 2])] < 16


cdef bint canonical_aor(const Proxy* p, const uint8_t* data, Span uri, uint8_t* out, uint32_t* length,
                        uint32_t* user_length) noexcept nogil:
    """An address of record as its key (section 10.3 step 5): escapes undone, parameters dropped, domain in lower case.

    False: it is of no domain of ours. *out* has room for MAX_AOR octets.
    """
    cdef Uri parsed
    cdef uint32_t at, end, n = 0, i
    cdef uint8_t octet
    cdef const Text* domain = &p.view.agents.domains[0]
    if not parse_uri(data, uri, &parsed) or (parsed.scheme != SCHEME_SIP and parsed.scheme != SCHEME_SIPS):
        return False
    if not is_domain(p.view, data, parsed.host):
        if not is_own(p.view, data, &parsed):
            return False
    else:
        domain = NULL
    at = parsed.user.at
    end = at + parsed.user.length
    while at < end and n < MAX_AOR - 1:
        octet = data[at]
        if is_escape(data, at, end):
            octet = <uint8_t>(HEX_VALUE[fold(data[at + 1])] << 4 | HEX_VALUE[fold(data[at + 2])])
            at += 2
        out[n] = octet
        n += 1
        at += 1
    if at < end or n == 0:
        return False
    user_length[0] = n
    out[n] = 0x40
    n += 1
    if n + (domain.length if domain != NULL else parsed.host.length) > MAX_AOR:
        return False
    if domain != NULL:
        n = put(out, n, domain.text, domain.length)
    else:
        for i in range(parsed.host.length):
            out[n + i] = fold(data[parsed.host.at + i])
        n += parsed.host.length
    length[0] = n
    return True


# --- contacts

cdef bint read_contact(const ParsedMessage* m, const NameAddr* value, Wanted* out) noexcept nogil:
    """One Contact value with its parameters; False: what it says cannot be kept."""
    cdef Cursor c = cursor(m.data, span_of(value.uri.at + value.uri.length, value.value.at + value.value.length))
    cdef Span name, parameter
    cdef Uri uri
    memset(out, 0, sizeof(Wanted))
    out.contact = value.uri
    out.expires = -1
    out.q = 1000
    if value.uri.length > MAX_CONTACT or not parse_uri(m.data, value.uri, &uri) or uri.host.length == 0:
        return False
    out.key = contact_hash(m.data, value.uri)
    skip_lws(&c)
    take(&c, 0x3E)
    skip_lws(&c)
    while take(&c, 0x3B):
        if not read_parameter(&c, &name, &parameter):
            return False
        if same_name(m.data, name, b"expires", 7):
            out.expires = read_seconds(m.data, parameter)
        elif same_name(m.data, name, b"q", 1):
            out.q = read_q(m.data, parameter)
        elif same_name(m.data, name, b"reg-id", 6):
            if read_seconds(m.data, parameter) > 0:
                out.reg_id = <uint32_t>min(read_seconds(m.data, parameter), 0xFFFF)
        elif same_name(m.data, name, b"+sip.instance", 13):
            if not is_instance(m.data, parameter):
                return False
            out.instance = span_of(parameter.at + 1, parameter.at + parameter.length - 1)
    return True


cdef bint is_control(uint8_t octet) noexcept nogil:
    return octet < 0x20 or octet == 0x7F


cdef bint is_instance(const uint8_t* data, Span quoted) noexcept nogil:
    """A quoted string of nothing that would have to be quoted: it goes out again as it came (RFC 5626 section 4.1)."""
    cdef uint32_t i
    if quoted.length < 3 or quoted.length - 2 > MAX_INSTANCE or data[quoted.at] != 0x22:
        return False
    for i in range(quoted.at + 1, quoted.at + quoted.length - 1):
        if is_control(data[i]) or data[i] == 0x5C:
            return False
    return True


cdef int64_t read_seconds(const uint8_t* data, Span value) noexcept nogil:
    """delta-seconds; -1 when it is none: then the default holds (RFC 3261 section 20.19)."""
    cdef Cursor c = cursor(data, value)
    cdef uint64_t number = 0
    if take_number(&c, EXPIRES_MOST, &number) and c.at == c.end:
        return <int64_t>number
    while c.at < c.end and 0x30 <= data[c.at] <= 0x39:
        c.at += 1
    return EXPIRES_MOST if value.length and c.at == c.end else -1


cdef uint16_t read_q(const uint8_t* data, Span value) noexcept nogil:
    """qvalue in thousandths."""
    cdef uint32_t i, q = 0, unit = 1000
    for i in range(value.at, value.at + min(value.length, 5)):
        if 0x30 <= data[i] <= 0x39:
            q += (data[i] - 0x30) * unit
            unit //= 10
    return <uint16_t>min(q, 1000)


cdef bint read_contacts(const ParsedMessage* m, Register* r) noexcept nogil:
    cdef int i
    cdef uint32_t at, end
    cdef NameAddr value
    for i in range(m.count):
        if r.field[i] != FIELD_CONTACT:
            continue
        at = m.headers[i].value
        end = at + m.headers[i].value_length
        if m.headers[i].value_length == 1 and m.data[at] == 0x2A:
            if r.star:
                return False
            r.star = True
            continue
        while at:
            if r.count == MAX_WANTED or not parse_name_addr(m.data, span_of(at, end), True, &value) or \
                    not read_contact(m, &value, &r.wanted[r.count]):
                return False
            r.count += 1
            at = value.next
    return not (r.star and r.count)


cdef int64_t header_expires(const ParsedMessage* m, const Register* r) noexcept nogil:
    cdef int i
    for i in range(m.count):
        if r.field[i] == FIELD_EXPIRES:
            return read_seconds(m.data, header_value(m, i))
    return -1


cdef bint read_path(const ParsedMessage* m, Register* r) noexcept nogil:
    """The Path values, joined (RFC 3327 section 5.3); False: they are too long, or no list of addresses."""
    cdef int i
    cdef Span value
    for i in range(m.count):
        if r.field[i] != FIELD_PATH:
            continue
        value = header_value(m, i)
        if r.path_length + value.length + 1 > MAX_PATH or not is_address_list(m.data, value):
            return False
        if r.path_length:
            r.path[r.path_length] = 0x2C
            r.path_length += 1
        r.path_length = put_unfolded(r.path, r.path_length, m.data, value)
    return True


cdef bint is_address_list(const uint8_t* data, Span values) noexcept nogil:
    """What is sent back, and sent on in Routes, must be what it says it is."""
    cdef uint32_t at = values.at, end = values.at + values.length, i
    cdef NameAddr value
    cdef Uri uri
    for i in range(at, end):
        if is_control(data[i]) and data[i] != 0x0D and data[i] != 0x0A and data[i] != 0x09:
            return False
    while at:
        if not parse_name_addr(data, span_of(at, end), True, &value) or not parse_uri(data, value.uri, &uri) or \
                uri.host.length == 0:
            return False
        at = value.next
    return True


cdef uint32_t put_unfolded(uint8_t* out, uint32_t at, const uint8_t* data, Span text) noexcept nogil:
    """Copy *text*, a folded line as one (RFC 3261 section 7.3.1)."""
    cdef uint32_t i
    for i in range(text.at, text.at + text.length):
        out[at] = 0x20 if is_control(data[i]) else data[i]
        at += 1
    return at


cdef bint first_hop_is_outbound(const Register* r) noexcept nogil:
    """The first Path URI has the parameter ob (RFC 5626 section 6)."""
    cdef NameAddr value
    cdef Uri uri
    cdef Span unused
    cdef uint8_t text[MAX_PATH + 64]
    memset(text, 0, sizeof(text))
    memcpy(text, r.path, r.path_length)
    return parse_name_addr(text, span_of(0, r.path_length), True, &value) and parse_uri(text, value.uri, &uri) and \
        uri_parameter(text, &uri, b"ob", 2, &unused)


cdef bint is_flow(const Register* r, const Wanted* wanted) noexcept nogil:
    """It registers one of the flows of its instance, not its Contact (RFC 5626 section 6)."""
    return r.outbound and wanted.reg_id != 0 and wanted.instance.length != 0


cdef bint goes_by_contact(const Proxy* p, const ParsedMessage* m, const Flow* from_, const Wanted* wanted,
                          bint has_path) noexcept nogil:
    """Whether requests go to the Contact's own address: when it is another than that which the REGISTER came from, and
    no address translation stands between (the Via says the truth about its source).

    Never to an address of ours or of our peers: who registers a carrier's would call through it at our expense.
    """
    cdef Address via, contact
    cdef Uri uri
    if has_path or wanted.reg_id or not parse_uri(m.data, wanted.contact, &uri) or is_own(p.view, m.data, &uri):
        return False
    if not parse_ip(m.data, uri.host, &contact) or not parse_ip(m.data, m.via.host, &via):
        return False
    contact.port = uri.port if uri.port else 5060
    if not same_ip(&via, &from_.peer) or same_ip(&contact, &from_.peer) and (
            from_.stream or contact.port == from_.peer.port):
        return False
    if from_.stream == 0 and (m.via.port if m.via.port else 5060) != from_.peer.port:
        return False
    return not is_peers(p.view, &contact)
