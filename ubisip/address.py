# SPDX-License-Identifier: Apache-2.0
"""Addresses as the configuration writes them: SIP URIs of peers, listening addresses, sources.

Every parser raises ValueError whose text says what was expected.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from ubisip.platform import Endpoint, Source

URI_EXAMPLE = 'a SIP URI such as "sip:127.0.0.1:5071"'
LISTEN_EXAMPLE = 'a listening address such as "udp:127.0.0.1:5060"'
SOCKET_EXAMPLE = 'an address and port such as "127.0.0.1:8080"'
SOURCE_EXAMPLE = 'an address, address:port or network such as "192.0.2.1", "192.0.2.1:5060" or "192.0.2.0/28"'
MEMBER_EXAMPLE = 'a host and port such as "127.0.0.1:3306" or "db1.example.net:3306"'
ADVERTISE_EXAMPLE = 'a host or host:port such as "sip.pa2.example.net"'

LISTEN_TRANSPORTS = ("udp", "tcp", "tls", "ws", "wss")
PEER_PORTS = {"udp": 5060, "tcp": 5060, "tls": 5061}
"""Transports a request can be sent to a peer by, and their default ports (RFC 3261 section 19.1.2)."""

_HOST_PORT = re.compile(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<host>[^\[\]:]+))(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*[A-Za-z](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.?", re.ASCII)
_NO_ENDPOINT = Endpoint("udp", "", PEER_PORTS["udp"])


@dataclass(frozen=True, slots=True)
class SipUri:
    """A peer's SIP URI: its text, and where requests to it go."""

    text: str = ""
    endpoint: Endpoint = _NO_ENDPOINT


NO_URI = SipUri()


def as_address(host: str) -> IPv4Address | IPv6Address | None:
    """The address that *host* is; None for a host name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def _is_mapped(address: IPv4Address | IPv6Address | None) -> bool:
    """An IPv4 address in IPv6 clothes: two spellings of one address would hide that two peers share it."""
    return isinstance(address, IPv6Address) and address.ipv4_mapped is not None


def is_host_name(host: str) -> bool:
    """Whether *host* is a ``hostname`` of RFC 3261 section 25.1."""
    return _HOST_NAME.fullmatch(host) is not None


def parse_uri(text: str) -> SipUri:
    """A peer's URI: host name or address, port, ``;transport=`` udp, tcp or tls, ``;lr`` (RFC 3261 section 19.1).

    ``sips`` is TLS, whether ``;transport=`` says so, says tcp, or is not there.
    """
    scheme, colon, rest = text.partition(":")
    if not colon or scheme.lower() not in ("sip", "sips"):
        raise ValueError(URI_EXAMPLE)
    if "@" in rest or "?" in rest:
        raise ValueError(f"{URI_EXAMPLE}, without user and headers")
    where, *parameters = rest.split(";")
    transport = _transport(parameters, secure=scheme.lower() == "sips")
    host, port = _host_port(where, URI_EXAMPLE)
    address = as_address(host)
    if address is not None and (address.is_unspecified or address.is_multicast):
        raise ValueError(f"{URI_EXAMPLE}, the address of one machine")
    return SipUri(text, Endpoint(transport, host, PEER_PORTS[transport] if port is None else port))


def _transport(parameters: list[str], secure: bool) -> str:
    transport = "tls" if secure else "udp"
    for parameter in parameters:
        name, _, value = parameter.lower().partition("=")
        if name == "transport" and secure and value in ("tcp", "tls"):
            continue
        if name == "transport" and not secure and value in PEER_PORTS:
            transport = value
        elif parameter.lower() != "lr":
            raise ValueError(f"{URI_EXAMPLE}, with no parameter but transport=udp, tcp or tls")
    return transport


def parse_listen(text: str) -> Endpoint:
    """A gateway's listening address, ``transport:address:port``."""
    transport, _, where = text.partition(":")
    if transport not in LISTEN_TRANSPORTS:
        raise ValueError(f"{LISTEN_EXAMPLE}, the transport one of {', '.join(LISTEN_TRANSPORTS)}")
    return Endpoint(transport, *_socket(where, LISTEN_EXAMPLE))


def parse_socket(text: str) -> Endpoint:
    """``address:port`` of a TCP socket."""
    return Endpoint("tcp", *_socket(text, SOCKET_EXAMPLE))


def _socket(text: str, expected: str) -> tuple[str, int]:
    host, port = _host_port(text, expected)
    if port is None or as_address(host) is None:
        raise ValueError(f"{expected}, an IP address and a port")
    return host, port


def split_address(text: str, default: int | None = None) -> tuple[str, int]:
    """Host (name, or address without brackets) and port of a member; *default* is the port of its protocol, if any.

    :raises ValueError: the text says what was expected.
    """
    host, port = _host_port(text, MEMBER_EXAMPLE)
    if port is None and default is None:
        raise ValueError(f"{MEMBER_EXAMPLE}, with its port")
    return host, port or default or 0


def parse_source(text: str) -> Source:
    """``address``, ``address:port``, ``[IPv6 address]:port`` or ``network/length``."""
    bare = as_address(text)
    if "/" not in text and bare is None:
        host, port = _host_port(text, SOURCE_EXAMPLE)
        if as_address(host) is None:
            raise ValueError(SOURCE_EXAMPLE)
        return Source(ip_network(host), port)
    if "%" in text:
        raise ValueError(f"{SOURCE_EXAMPLE}, without zone")
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(SOURCE_EXAMPLE) from None
    if _is_mapped(network.network_address):
        raise ValueError(f"{SOURCE_EXAMPLE}, IPv4 written as such")
    if bare is None and as_address(text.partition("/")[0]) != network.network_address:
        raise ValueError(f'the network "{network}" (no bits set beyond its length)')
    return Source(network)


def parse_advertise(text: str) -> str:
    """``host`` or ``host:port`` as it goes into Record-Route; an IPv6 address stands in brackets."""
    _host_port(text, ADVERTISE_EXAMPLE)
    return text


def _host_port(text: str, expected: str) -> tuple[str, int | None]:
    """Host (an address in its shortest form, without brackets) and port, if any."""
    match = _HOST_PORT.fullmatch(text)
    if match is None:
        raise ValueError(expected)
    address = as_address(match["six"] or match["host"])
    if (match["six"] is not None) != isinstance(address, IPv6Address) or "%" in text:
        raise ValueError(expected)
    if address is None and not is_host_name(match["host"]):
        raise ValueError(expected)
    if _is_mapped(address):
        raise ValueError(f"{expected}, IPv4 written as such")
    port = None if match["port"] is None else int(match["port"])
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"{expected}, the port from 1 to 65535")
    return match["host"] if address is None else str(address), port
