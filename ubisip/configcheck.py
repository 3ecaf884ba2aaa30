# SPDX-License-Identifier: Apache-2.0
"""Mistakes of a configuration that no key shows alone: names, sites, addresses and sources that contradict each other.

What a key alone got wrong is in the report already and is passed over here: a mistake is told once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

from ubisip.address import as_address
from ubisip.platform import Endpoint, Source
from ubisip.schema import Report, listed, nearest, path_text
from ubisip.sections import Agents, Gateway, Member, PeerTable, Sections
from ubisip.tiercheck import check_tiers
from ubisip.toml_lines import Path


def check(file: Sections, report: Report) -> None:
    """Add to *report* what contradicts itself in *file*."""
    _check_names(file, report)
    _check_sites(file, report)
    _check_key_file(file, report)
    _check_listening(file, report)
    _check_gateways(file, report)
    _check_peers(file, report)
    _check_sources(file, report)
    _check_weights(file, report)
    _check_tls(file, report)
    if file.agents is not None:
        _check_agents(file, file.agents, report)
    check_tiers(file, report)


def sources_of(peer: PeerTable) -> tuple[Source, ...]:
    """Who may send as *peer*: its sources, else the address in its URI; empty when that is a host name."""
    if peer.sources or as_address(peer.uri.endpoint.host) is None:
        return peer.sources
    return (Source(ip_network(peer.uri.endpoint.host)),)


def _peers(file: Sections) -> Iterator[tuple[Path, PeerTable]]:
    for index, carrier in enumerate(file.carriers):
        yield ("carriers", index), carrier
    for index, server in enumerate(file.servers):
        yield ("servers", index), server


def _gateways(file: Sections) -> Iterator[tuple[Path, Gateway]]:
    for index, gateway in enumerate(file.gateways):
        yield ("gateways", index), gateway


def _listeners(file: Sections, report: Report) -> Iterator[tuple[Path, Endpoint]]:
    """Listening addresses that were read whole, with their paths."""
    for path, gateway in _gateways(file):
        if not report.broken(*path, "listen"):
            for index, endpoint in enumerate(gateway.listen):
                yield (*path, "listen", index), endpoint


def _place(path: Path, report: Report) -> str:
    return f"{path_text(path)} on line {report.line(path)}"


def _check_names(file: Sections, report: Report) -> None:
    rows: list[tuple[Path, PeerTable | Gateway]] = [*_peers(file), *_gateways(file)]
    _check_unique([(path, row.name) for path, row in rows], report)
    for key, tier in file.tiers.items():
        _check_unique([(("tiers", key, "members", index), row.name) for index, row in enumerate(tier.members)], report)


def _check_unique(names: Iterable[tuple[Path, str]], report: Report) -> None:
    seen: dict[str, Path] = {}
    for path, name in names:
        first = seen.setdefault(name, path)
        if name and first != path:
            report.add((*path, "name"), f"a name of its own ({_place((*first, 'name'), report)} has it)", name)


def _check_sites(file: Sections, report: Report) -> None:
    rows: list[tuple[Path, PeerTable | Gateway | Member]] = [*_peers(file), *_gateways(file)]
    for key, tier in file.tiers.items():
        rows += [(("tiers", key, "members", index), member) for index, member in enumerate(tier.members)]
    if not file.sites and not report.broken("sites"):
        report.add(("sites",), "at least one section such as [sites.PA2]")
    for path, row in rows:
        if row.site and row.site not in file.sites and not report.broken("sites"):
            report.add((*path, "site"), f"a site of this file {nearest(row.site, file.sites)}", row.site)


def _check_key_file(file: Sections, report: Report) -> None:
    if len(file.gateways) > 1 and not file.platform.key_file and not report.broken("platform", "key_file"):
        report.add(("platform", "key_file"), "the key ring that all gateways share, made by `ubisip key FILE`")


def _socket(endpoint: Endpoint) -> tuple[bool, str, int]:
    """What two sockets may not have in common: datagrams or streams, address, port."""
    return endpoint.transport == "udp", endpoint.host, endpoint.port


def _is_wildcard(endpoint: Endpoint) -> bool:
    return ip_address(endpoint.host).is_unspecified


def _check_listening(file: Sections, report: Report) -> None:
    """No two listeners share a socket; 0.0.0.0 is another address on every machine."""
    seen: dict[tuple[bool, str, int], Path] = {}
    for path, endpoint in _listeners(file, report):
        first = seen.setdefault(_socket(endpoint), path)
        if first != path and not (_is_wildcard(endpoint) and first[1] != path[1]):
            report.add(path, f"a listening address of its own ({_place(first, report)} has it)", str(endpoint))


def _check_gateways(file: Sections, report: Report) -> None:
    for path, gateway in _gateways(file):
        wildcards = [endpoint for endpoint in gateway.listen if _is_wildcard(endpoint)]
        if wildcards and not gateway.advertise and not report.broken(*path, "advertise"):
            report.add((*path, "advertise"), f"the name or address that others know it by, as it has {wildcards[0]}")
        if gateway.admin is None or gateway.admin_token_file or report.broken(*path, "admin_token_file"):
            continue
        if not ip_address(gateway.admin.host).is_loopback:
            report.add((*path, "admin"), "a loopback address, or admin_token_file beside it", str(gateway.admin)[4:])


def _check_peers(file: Sections, report: Report) -> None:
    for path, peer in _peers(file):
        if not peer.uri.text:
            continue
        if not sources_of(peer) and not report.broken(*path, "sources"):
            report.add((*path, "sources"), "the addresses that it sends from, as its uri has a host name")
        if not report.broken("gateways") and not report.broken(*path, "listener"):
            _check_listener(path, peer, dict(_listeners(file, report)), report)


def _check_listener(path: Path, peer: PeerTable, listeners: dict[Path, Endpoint], report: Report) -> None:
    """Some gateway can reach *peer*, and it is not a gateway itself."""
    uri, endpoint = peer.uri.text, peer.uri.endpoint
    names = [str(listener) for listener in listeners.values()]
    for place, listener in listeners.items():
        if listener == endpoint:
            report.add((*path, "uri"), f"an address that is no gateway's ({_place(place, report)} has it)", uri)
    if peer.tcp and not _reaches_both(endpoint, listeners.values()):
        report.add((*path, "tcp"), "false, or a udp uri and gateway listeners of udp and tcp in its network", True)
    if peer.listener is None:
        if not any(_fits(endpoint, listener) for listener in listeners.values()):
            report.add((*path, "uri"), f"a transport and network of a gateway's listener ({listed(names)})", uri)
    elif peer.listener not in listeners.values():
        wanted = f"a listener of a gateway {nearest(str(peer.listener), names)}"
        report.add((*path, "listener"), wanted, str(peer.listener))
    elif not _fits(endpoint, peer.listener):
        wanted = f"a listener with the transport and network of its uri ({endpoint})"
        report.add((*path, "listener"), wanted, str(peer.listener))


def _fits(endpoint: Endpoint, listener: Endpoint) -> bool:
    """Same transport; same address family, where the endpoint has an address."""
    address = as_address(endpoint.host)
    return endpoint.transport == listener.transport and (
        address is None or address.version == ip_address(listener.host).version
    )


def _reaches_both(endpoint: Endpoint, listeners: Iterable[Endpoint]) -> bool:
    """Over UDP, and over TCP as well."""
    return endpoint.transport == "udp" and any(_fits(replace(endpoint, transport="tcp"), one) for one in listeners)


def _check_sources(file: Sections, report: Report) -> None:
    claims: list[tuple[Path, Source]] = []
    for path, peer in _peers(file):
        if peer.uri.text and not report.broken(*path, "sources"):
            claims += _new_claims(path, peer, claims, report)


def _new_claims(
    path: Path, peer: PeerTable, claims: list[tuple[Path, Source]], report: Report
) -> list[tuple[Path, Source]]:
    """The sources of *peer*, noting those that clash with the *claims* of the peers before it."""
    mine: list[tuple[Path, Source]] = []
    for index, source in enumerate(sources_of(peer)):
        place: Path = (*path, "sources", index) if peer.sources else (*path, "uri")
        mine.append((place, source))
        first = next((other for other, claim in claims if _clash(source, claim, same_side=other[0] == path[0])), None)
        if first is not None:
            report.add(place, f"a source of its own ({_place(first, report)} claims it)", _source_text(source))
    return mine


def _clash(source: Source, claim: Source, *, same_side: bool) -> bool:
    """Whether a datagram could come from both, neither of them more specific.

    A port is more specific than none, and between peers of one side a longer network than a shorter one. A network of
    a carrier that holds a server, or the other way round, would hide on which side a call entered.
    """
    if (source.port is None) != (claim.port is None) or source.port != claim.port:
        return False
    return source.network == claim.network or (not same_side and source.network.overlaps(claim.network))


def _source_text(source: Source) -> str:
    network = source.network
    if network.prefixlen < network.max_prefixlen:
        return str(network)
    if source.port is None:
        return str(network.network_address)
    return str(Endpoint("", str(network.network_address), source.port))[1:]


def _check_weights(file: Sections, report: Report) -> None:
    for side, rows in (("carriers", file.carriers), ("servers", file.servers)):
        if rows and not report.broken(side) and not any(row.weight for row in rows):
            report.add((side, 0, "weight"), f"a weight above 0 on one of the {side} at least: none could be chosen", 0)


def _check_tls(file: Sections, report: Report) -> None:
    """Certificates are there where a listener needs them, and clients' are verified by somebody."""
    for path, endpoint in _listeners(file, report):
        if endpoint.transport in ("tls", "wss") and file.tls is None and not report.broken("tls"):
            report.add(path, "a section [tls] with the certificate to show", str(endpoint))
    if file.tls is not None and file.tls.client_certificates == "required" and not file.tls.client_ca:
        report.add(("tls", "client_ca"), "the authorities to verify clients by, as client_certificates is required")


def _check_agents(file: Sections, agents: Agents, report: Report) -> None:
    if not agents.min_expires <= agents.default_expires <= agents.max_expires:
        wanted = f"seconds from min_expires ({agents.min_expires}) to max_expires ({agents.max_expires})"
        report.add(("agents", "default_expires"), wanted, agents.default_expires)
    algorithms = agents.algorithms
    if len(set(algorithms)) < len(algorithms) or "MD5" in algorithms[:-1]:
        wanted = "each algorithm once, and MD5 last: old phones read the last challenge"
        report.add(("agents", "algorithms"), wanted, list(algorithms))
    most = _mirror_servers(file, agents)
    if agents.mirror_quorum > most and not report.broken("servers"):
        wanted = f"at most {most}, the servers that a registration reaches"
        report.add(("agents", "mirror_quorum"), wanted, agents.mirror_quorum)


def _mirror_servers(file: Sections, agents: Agents) -> int:
    """How many servers a registration reaches at the site that has fewest."""
    if agents.mirror != "site":
        return len(file.servers) if agents.mirror == "platform" else agents.mirror_quorum
    sites = [server.site for server in file.servers]
    return min((sites.count(gateway.site) for gateway in file.gateways), default=0)
