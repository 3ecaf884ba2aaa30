# SPDX-License-Identifier: Apache-2.0
"""The probes ``sip``, ``tcp``, ``tls``, ``http``, ``dns`` on peers that serve, refuse, hang, lie and talk nonsense."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from processes import until
from tiers.asked import FAIL, INCONCLUSIVE, PASS, SHORT, WARN, ask, brief, datagram_server, stream_server
from tiers.daemons_common import free_port
from tiers.fake_services import Listener, Service

from ubisip.health.machine import Verdict
from ubisip.health.probe import Probe
from ubisip.health.probes.amqp import AmqpProbe
from ubisip.health.probes.dns import DnsProbe, is_newer
from ubisip.health.probes.etcd import EtcdProbe
from ubisip.health.probes.galera import GaleraProbe
from ubisip.health.probes.haproxy import HaproxyProbe
from ubisip.health.probes.http import HttpProbe
from ubisip.health.probes.ldap import LdapProbe
from ubisip.health.probes.postgresql import PostgresqlProbe
from ubisip.health.probes.redis import RedisProbe
from ubisip.health.probes.sip import SipProbe
from ubisip.health.probes.tcp import TcpProbe
from ubisip.health.probes.tls import TlsProbe

STREAMS: dict[str, Callable[[], Probe]] = {
    "tcp": lambda: TcpProbe({"expect": "hello"}),
    "tls": lambda: TlsProbe({}),
    "http": lambda: HttpProbe({}),
    "etcd": lambda: EtcdProbe({}),
    "haproxy": lambda: HaproxyProbe({}),
    "postgresql": lambda: PostgresqlProbe({}),
    "galera": lambda: GaleraProbe({}),
    "redis": lambda: RedisProbe({}),
    "ldap": lambda: LdapProbe({}),
    "amqp": lambda: AmqpProbe({}),
}
DATAGRAMS: dict[str, Callable[[], Probe]] = {
    "sip": lambda: SipProbe({}),
    "dns": lambda: DnsProbe({"name": "www.example.test"}),
}


@pytest.mark.parametrize("kind", [*STREAMS, *DATAGRAMS])
async def test_a_port_that_refuses_is_a_hard_failure(kind: str) -> None:
    finding = await ask((STREAMS | DATAGRAMS)[kind](), f"127.0.0.1:{free_port()}", "user", "password")
    assert brief(finding) == (FAIL, "refused")
    assert finding.sample.hard and not finding.sample.answered


@pytest.mark.parametrize("kind", STREAMS)
async def test_one_that_takes_the_connection_and_is_silent_has_failed_in_time(kind: str) -> None:
    port = free_port()
    async with stream_server(port):
        finding = await ask(STREAMS[kind](), f"127.0.0.1:{port}", "user", "password", SHORT)
    assert brief(finding) == (FAIL, "timeout")
    assert not finding.sample.hard and not finding.sample.answered
    assert finding.latency < SHORT + 1.5


@pytest.mark.parametrize("kind", DATAGRAMS)
async def test_one_that_does_not_answer_datagrams_has_failed_in_time(kind: str) -> None:
    port = free_port()
    async with datagram_server(port, lambda _data: None) as server:
        finding = await ask(DATAGRAMS[kind](), f"127.0.0.1:{port}", timeout=SHORT)
    assert brief(finding) == (FAIL, "timeout")
    assert len(server.heard) == 2, "a lost datagram is not a dead server: it was asked twice"


@pytest.mark.parametrize("kind", STREAMS)
async def test_one_that_closes_at_once_has_failed(kind: str) -> None:
    port = free_port()
    async with stream_server(port, ends=True):
        finding = await ask(STREAMS[kind](), f"127.0.0.1:{port}", "user", "password")
    assert finding.sample.verdict is FAIL


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("nonsense", [b"\x00" * 64, b"\xff\xfe garbage\r\n\r\n" * 20, b"HTTP/1.1 2 \r\n\r\n"])
async def test_nonsense_never_passes_and_never_raises(kind: str, nonsense: bytes) -> None:
    port = free_port()
    async with stream_server(port, nonsense):
        finding = await ask(STREAMS[kind](), f"127.0.0.1:{port}", "user", "password", SHORT)
    assert finding.sample.verdict in (FAIL, INCONCLUSIVE)


@pytest.mark.parametrize("kind", ["tcp", "http", "haproxy"])
async def test_an_answer_without_end_is_read_no_further_than_its_bound(kind: str) -> None:
    port = free_port()
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" if kind == "http" else b""
    async with stream_server(port, head + b"x" * 20_000_000):
        finding = await ask(STREAMS[kind](), f"127.0.0.1:{port}")
    assert finding.sample.verdict is (PASS if kind == "http" else FAIL)


@pytest.mark.parametrize("kind", ["tcp", "http", "postgresql"])
async def test_a_name_that_does_not_resolve_says_nothing_of_the_member(kind: str) -> None:
    assert brief(await ask(STREAMS[kind](), "nowhere.invalid:80")) == (INCONCLUSIVE, "name")


# sip


def response(status: str, *lines: str) -> Callable[[bytes], list[bytes]]:
    """An answer to OPTIONS, after a 100 that is none yet."""

    def answer(request: bytes) -> list[bytes]:
        copied = [
            line for line in request.split(b"\r\n") if line.startswith((b"Via", b"From", b"To", b"Call", b"CSeq"))
        ]
        rest = b"".join(
            b"%s\r\n" % line for line in [*copied, *(one.encode() for one in lines), b"Content-Length: 0", b""]
        )
        return [b"SIP/2.0 100 Trying\r\n" + rest, b"SIP/2.0 " + status.encode() + b"\r\n" + rest]

    return answer


@pytest.mark.parametrize(
    ("status", "lines", "verdict"),
    [
        ("200 OK", (), PASS),
        ("404 Not Found", (), PASS),
        ("503 Service Unavailable", (), FAIL),
        ("503 Service Unavailable", ("Retry-After: 7",), Verdict.BUSY),
        ("408 Request Timeout", (), FAIL),
    ],
)
async def test_sip_any_final_response_but_408_and_503_shows_life(status: str, lines: Any, verdict: Verdict) -> None:
    port = free_port()
    async with datagram_server(port, response(status, "Server: Asterisk", *lines)):
        finding = await ask(SipProbe({}), f"sip:127.0.0.1:{port}")
    assert brief(finding) == (verdict, f"sip.{status[:3]}")
    assert finding.facts["server"] == "Asterisk"
    assert finding.sample.retry_after == (7 if verdict is Verdict.BUSY else 0)


async def test_sip_an_answer_to_somebody_else_is_none() -> None:
    port = free_port()
    async with datagram_server(port, lambda _data: b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP x;branch=z9hG4bKother\r\n\r\n"):
        assert brief(await ask(SipProbe({}), f"127.0.0.1:{port}", timeout=SHORT)) == (FAIL, "timeout")


# tcp


async def test_tcp_what_is_expected_must_come() -> None:
    port = free_port()
    async with stream_server(port, b"220 hello there\r\n") as heard:
        assert brief(await ask(TcpProbe({}), f"127.0.0.1:{port}")) == (PASS, "ok")
        finding = await ask(TcpProbe({"send": "PING\r\n", "expect": "hello"}), f"127.0.0.1:{port}")
        assert brief(finding) == (PASS, "ok")
        await until(lambda: heard == [b"PING\r\n"], "it to be told")
    async with stream_server(port, b"500 go away\r\n", ends=True):
        finding = await ask(TcpProbe({"expect": "hello"}), f"127.0.0.1:{port}")
        assert brief(finding) == (FAIL, "tcp.answer") and finding.facts["banner"] == "500 go away"


# tls


class Authority:
    """A certificate authority and its servers' certificates."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority")])
        self.file = str(directory / "ca.pem")
        certificate = self._signed(self._name, self._key, 365, ca=True)
        Path(self.file).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _signed(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, days: float, ca: bool = False) -> Any:
        now = datetime.datetime.now(datetime.UTC)
        end = now + datetime.timedelta(days=days)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, end) - datetime.timedelta(days=1))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("web.test")]), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def server(self, days: float) -> ssl.SSLContext:
        """What a server with a certificate for web.test presents, which ends in *days*."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "web.test")])
        certificate = self._signed(name, key, days)
        file = self._directory / f"server-{days}.pem"
        plain = serialization.NoEncryption()
        octets = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        file.write_bytes(octets + certificate.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.mark.parametrize(
    ("days", "name", "verdict", "reason"),
    [
        (90.0, "web.test", PASS, "ok"),
        (5.0, "web.test", WARN, "tls.expires"),
        (-2.0, "web.test", FAIL, "tls.expired"),
        (90.0, "other.test", FAIL, "tls.untrusted"),
    ],
)
async def test_tls_days_left_and_name(
    authority: Authority, days: float, name: str, verdict: Verdict, reason: str
) -> None:
    async with Service(Listener(), tls=authority.server(days)) as service:
        probe = TlsProbe({"ca_file": authority.file, "server_name": name})
        finding = await ask(probe, f"127.0.0.1:{service.port}")
    assert brief(finding) == (verdict, reason)
    if verdict in (PASS, WARN):
        assert days - 0.1 < finding.facts["days_left"] <= days
        assert finding.facts["subject"] == "CN=web.test"


async def test_tls_an_authority_that_is_not_ours_is_not_trusted_unless_told_so(authority: Authority) -> None:
    async with Service(Listener(), tls=authority.server(90)) as service:
        address = f"127.0.0.1:{service.port}"
        assert brief(await ask(TlsProbe({}), address)) == (FAIL, "tls.untrusted")
        assert brief(await ask(TlsProbe({"verify": False}), address)) == (PASS, "ok")
    async with Service(Listener(), tls=authority.server(-2)) as service:
        finding = await ask(TlsProbe({"verify": False}), f"127.0.0.1:{service.port}")
        assert brief(finding) == (FAIL, "tls.expired")


async def test_https_is_verified(authority: Authority) -> None:
    async with Service(Listener(), tls=authority.server(90)) as service:
        url = f"https://127.0.0.1:{service.port}/"
        assert brief(await ask(HttpProbe({}), url)) == (FAIL, "tls.untrusted")
        assert brief(await ask(HttpProbe({"verify": False}), url)) == (PASS, "ok")


# http


@pytest.mark.parametrize(
    ("answer", "parameters", "verdict", "reason"),
    [
        ({}, {}, PASS, "ok"),
        ({"status": 302}, {}, PASS, "ok"),
        ({"status": 500}, {}, FAIL, "http.500"),
        ({"status": 404}, {}, FAIL, "http.404"),
        ({"status": 404}, {"status": [404]}, PASS, "ok"),
        ({"status": 200}, {"status": [204]}, FAIL, "http.200"),
        ({"text": "all is well"}, {"body": "well"}, PASS, "ok"),
        ({"text": "x" * 300_000 + "well"}, {"body": "well"}, FAIL, "http.body"),
        ({"text": "maintenance"}, {"body": "well"}, FAIL, "http.body"),
        ({"headers": {"X-Role": "active"}}, {"headers": {"X-Role": "active"}}, PASS, "ok"),
        ({"headers": {"X-Role": "standby"}}, {"headers": {"X-Role": "active"}}, FAIL, "http.header"),
        ({}, {"headers": {"X-Role": ""}}, FAIL, "http.header"),
        ({"status": 401}, {}, INCONCLUSIVE, "http.401"),
        ({"status": 403}, {}, INCONCLUSIVE, "http.403"),
        ({"delay": 0.05}, {"warn_latency": 0.02}, WARN, "slow"),
    ],
)
async def test_http_status_body_and_headers(answer: Any, parameters: Any, verdict: Verdict, reason: str) -> None:
    async with Service(Listener(**answer)) as service:
        assert brief(await ask(HttpProbe(parameters), service.url)) == (verdict, reason)


async def test_http_asks_what_it_was_told_to(authority: Authority) -> None:
    listener = Listener()
    async with Service(listener) as service:
        parameters = {"path": "/up?x=1", "host": "web.test", "request_headers": {"X-A": "b"}, "method": "HEAD"}
        await ask(HttpProbe(parameters), f"127.0.0.1:{service.port}", "me", "pass")
    (heard,) = listener.heard
    assert (heard.method, heard.path, heard.headers["Host"], heard.headers["X-A"]) == (
        "HEAD",
        "/up?x=1",
        "web.test",
        "b",
    )
    assert heard.headers["Authorization"] == "Basic bWU6cGFzcw=="


async def test_http_a_connection_is_made_anew_each_time() -> None:
    """One that is kept open would not notice that nobody listens any more."""
    probe = HttpProbe({})
    async with Service(Listener()) as service:
        assert brief(await ask(probe, service.url)) == (PASS, "ok")
    assert brief(await ask(probe, service.url)) == (FAIL, "refused")


async def test_http_what_is_no_url_is_named() -> None:
    assert brief(await ask(HttpProbe({}), "http://[oops")) in [(INCONCLUSIVE, "address"), (INCONCLUSIVE, "error")]


# dns


def zone(serial: int, values: list[str], flags: int = dns.flags.AA, rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> Any:
    """A name server of example.test."""

    def answer(data: bytes) -> bytes:
        query = dns.message.from_wire(data)
        reply = dns.message.make_response(query)
        reply.flags |= flags
        reply.set_rcode(rcode)
        question = query.question[0]
        soa = [f"ns1.example.test. host.example.test. {serial} 3600 600 86400 30"]
        found = soa if question.rdtype == dns.rdatatype.SOA else values
        if found and rcode is dns.rcode.NOERROR:
            reply.answer.append(dns.rrset.from_text(question.name, 30, "IN", question.rdtype, *found))
        return reply.to_wire()

    return answer


ASKED = {"name": "www.example.test"}


@pytest.mark.parametrize(
    ("server", "parameters", "verdict", "reason"),
    [
        (zone(1, ["192.0.2.1"]), {}, PASS, "ok"),
        (zone(1, ["192.0.2.1"]), {"expect": ["192.0.2.1"], "zone": "example.test"}, PASS, "ok"),
        (zone(1, ["192.0.2.9"]), {"expect": ["192.0.2.1"]}, FAIL, "dns.answer"),
        (zone(1, []), {}, FAIL, "dns.empty"),
        (zone(1, ["192.0.2.1"], flags=0), {}, FAIL, "dns.lame"),
        (zone(1, ["192.0.2.1"], flags=0), {"authoritative": False}, PASS, "ok"),
        (zone(1, [], rcode=dns.rcode.SERVFAIL), {}, FAIL, "dns.servfail"),
        (zone(1, [], rcode=dns.rcode.NXDOMAIN), {}, FAIL, "dns.nxdomain"),
        (zone(1, [], rcode=dns.rcode.REFUSED), {}, INCONCLUSIVE, "dns.refused"),
        (lambda data: data[:2] + b"nonsense", {}, FAIL, "protocol"),
    ],
)
async def test_dns_answers(server: Any, parameters: Any, verdict: Verdict, reason: str) -> None:
    port = free_port()
    async with datagram_server(port, server):
        assert brief(await ask(DnsProbe(ASKED | parameters), f"127.0.0.1:{port}")) == (verdict, reason)


async def test_dns_a_name_server_that_stays_behind_is_a_warning() -> None:
    new, old = free_port(), free_port()
    servers = [f"127.0.0.1:{new}", f"127.0.0.1:{old}"]
    async with datagram_server(new, zone(12, ["192.0.2.1"])), datagram_server(old, zone(11, ["192.0.2.1"])):
        probe = DnsProbe({**ASKED, "zone": "example.test", "name_servers": servers, "stale_after": 0})
        assert brief(await ask(probe, servers[0])) == (PASS, "ok")
        finding = await ask(probe, servers[1])
        assert brief(finding) == (WARN, "dns.stale")
        assert finding.facts["serials"] == {servers[0]: 12, servers[1]: 11}
        patient = DnsProbe({**ASKED, "zone": "example.test", "name_servers": servers})
        assert brief(await ask(patient, servers[1])) == (PASS, "ok"), "a moment behind is no fault"


def test_serials_are_compared_as_rfc_1982_has_it() -> None:
    assert is_newer(2, 1) and not is_newer(1, 2) and not is_newer(5, 5)
    assert is_newer(0, 2**32 - 1) and not is_newer(2**32 - 1, 0)


@pytest.mark.parametrize(
    ("probe", "parameters"),
    [
        (HttpProbe, {"pathh": "/"}),
        (HttpProbe, {"status": ["200"]}),
        (HttpProbe, {"ca_file": "/nowhere.pem"}),
        (TlsProbe, {"warn_days": -1}),
        (TcpProbe, {"send": 5}),
        (DnsProbe, {}),
        (DnsProbe, {"name": "www.example.test", "type": "NONSENSE"}),
        (SipProbe, {"uri": "sip:x"}),
    ],
)
def test_wrong_parameters_are_named(probe: Any, parameters: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        probe(parameters)
