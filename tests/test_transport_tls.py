# SPDX-License-Identifier: Apache-2.0
"""TLS on both sides: handshakes, certificates by name, clients' and servers' certificates, renewal, RFC 5923."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from certificates import client_context, server_context, tls_section, write_authority, write_certificate
from fake_worker import until
from transport_parts import HOST, OTHER_HOST, Peer, Platform, both_loops, platform_on, request, response

from ubisip.sections import HostCertificate, Tls
from ubisip.transport import connection, tcp
from ubisip.transport.tls import CertificateError, Certificates, TlsStream, problems_of

NAME = "gw.example.net"


@contextlib.asynccontextmanager
async def tls_on(section: Tls, *transports: str, **more: Any) -> AsyncIterator[Platform]:
    async with platform_on(
        HOST, transports=transports or ("tls",), certificates=Certificates.read(section), **more
    ) as it:
        yield it


def subject(peer: Peer) -> set[str]:
    """The host names in the certificate that the gateway showed."""
    shown = peer.writer.get_extra_info("ssl_object").getpeercert()
    return {name for kind, name in shown["subjectAltName"]}


async def refused(platform: Platform, **tls: Any) -> None:
    """A connection whose handshake the gateway ends."""
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        peer = await platform.connect(**tls)
        peer.send(request())
        await peer.is_closed()


@both_loops
async def test_messages_both_ways(tmp_path: Path) -> None:
    async with tls_on(tls_section(tmp_path, NAME)) as platform:
        peer = await platform.connect(ssl=client_context(), server_hostname=NAME)
        large = request(2)[:-4] + b"\r\nSubject: " + b"a" * 60_000 + b"\r\n\r\n"
        peer.send(request(1) + large + b"\r\n\r\n")
        await platform.hears(request(1), large)
        await peer.gets(b"\r\n")
        stream = platform.streams._connections
        platform.streams.send([(response(1), peer.address, 1, next(iter(stream)))])
        await peer.gets(response(1))
        assert peer.writer.get_extra_info("ssl_object").version() == "TLSv1.3"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_versions_that_are_spoken(tmp_path: Path, version: ssl.TLSVersion) -> None:
    context = client_context()
    context.minimum_version = context.maximum_version = version
    async with tls_on(tls_section(tmp_path, NAME)) as platform:
        peer = await platform.connect(ssl=context, server_hostname=NAME)
        peer.send(request())
        await platform.hears(request())


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_older_versions_are_refused(tmp_path: Path) -> None:
    context = client_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with tls_on(tls_section(tmp_path, NAME)) as platform:
        await refused(platform, ssl=context, server_hostname=NAME)
        await until(lambda: platform.counter("closed_handshake") == 1)
        assert platform.core.received == []


@both_loops
async def test_octet_by_octet(tmp_path: Path) -> None:
    """The handshake, then a message, each octet in a segment of its own."""
    async with tls_on(tls_section(tmp_path, NAME)) as platform:
        peer = await platform.connect()
        client = TlsStream(client_context(), server_side=False, name=NAME)
        client.feed(b"")

        async def trickle() -> None:
            for octet in client.output():
                peer.send(bytes([octet]))
                await asyncio.sleep(0)

        await trickle()
        while not client.established:
            client.feed(await peer.reader.read(1))
            await trickle()
        client.write(request())
        await trickle()
        await platform.hears(request())


async def test_the_name_asked_for_picks_the_certificate(tmp_path: Path) -> None:
    other = HostCertificate(*write_certificate(tmp_path, "other", "phones.example.net"))
    section = tls_section(tmp_path, NAME, hosts={"phones.example.net": other})
    async with tls_on(section) as platform:
        default = await platform.connect(ssl=client_context(), server_hostname=NAME)
        asked = await platform.connect(ssl=client_context(), server_hostname="Phones.example.net")
        assert (subject(default), subject(asked)) == ({NAME}, {"phones.example.net"})


async def test_renewed_certificates_are_shown_to_new_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "LOOK", 0.0)
    async with tls_on(tls_section(tmp_path, NAME)) as platform:
        before = await platform.connect(ssl=client_context(), server_hostname=NAME)
        (tmp_path / "gateway.key").write_text("half of a ke")
        platform.streams._look_at_certificates(1.0)
        broken = await platform.connect(ssl=client_context(), server_hostname=NAME)
        assert subject(broken) == {NAME}
        write_certificate(tmp_path, "gateway", NAME, "renewed.example.net")
        platform.streams._look_at_certificates(2.0)
        after = await platform.connect(ssl=client_context(), server_hostname=NAME)
        assert subject(after) == {NAME, "renewed.example.net"}
        assert platform.counter("certificates_renewed") == 1
        before.send(request())
        await platform.hears(request())


@pytest.mark.parametrize("wanted", ["optional", "required"])
async def test_certificates_of_clients(tmp_path: Path, wanted: str) -> None:
    section = tls_section(tmp_path, NAME, client_ca=write_authority(tmp_path, "clients"), client_certificates=wanted)
    good = write_certificate(tmp_path, "good", "phone.example.net", ca="clients")
    bad = write_certificate(tmp_path, "bad", "phone.example.net", ca="nobody")
    async with tls_on(section) as platform:
        peer = await platform.connect(ssl=client_context(certificate=good), server_hostname=NAME)
        peer.send(request(1))
        await platform.hears(request(1))
        await refused(platform, ssl=client_context(certificate=bad), server_hostname=NAME)
        await until(lambda: platform.counter("closed_handshake") == 1)
        if wanted == "required":
            await refused(platform, ssl=client_context(), server_hostname=NAME)
            await until(lambda: platform.counter("closed_handshake") == 2)
        else:
            without = await platform.connect(ssl=client_context(), server_hostname=NAME)
            without.send(request(2))
            await platform.hears(request(2))


# What we connect to


@both_loops
async def test_a_server_is_verified_by_its_name(tmp_path: Path) -> None:
    server = write_certificate(tmp_path, "server", "tel.example.net")
    async with tls_on(tls_section(tmp_path, NAME), name_of=lambda _: "tel.example.net") as platform:
        address, peers = await platform.serve(ssl=server_context(server, client_ca="platform"))
        platform.streams.send([(request(1), address, 1, 0), (request(2), address, 1, 0)])
        peer = await peers.get()
        await peer.gets(request(1) + request(2))
        assert subject(peer) == {NAME}
        peer.send(response(1))
        await platform.hears(response(1))


@both_loops
async def test_a_server_is_verified_by_its_address_where_it_has_no_name(tmp_path: Path) -> None:
    server = write_certificate(tmp_path, "server", OTHER_HOST)
    async with tls_on(tls_section(tmp_path, NAME)) as platform:
        address, peers = await platform.serve(ssl=server_context(server))
        platform.streams.send([(request(), address, 1, 0)])
        await (await peers.get()).gets(request())


@pytest.mark.parametrize(
    ("name", "ca", "days"), [("other.example.net", "platform", 30), (NAME, "nobody", 30), (NAME, "platform", -1)]
)
async def test_a_server_that_does_not_prove_itself_gets_nothing(
    tmp_path: Path, name: str, ca: str, days: float
) -> None:
    server = write_certificate(tmp_path, "server", name, ca=ca, days=days)
    async with tls_on(tls_section(tmp_path, NAME), name_of=lambda _: NAME) as platform:
        address, peers = await platform.serve(ssl=server_context(server))
        platform.streams.send([(request(), address, 1, 0)])
        await until(lambda: platform.core.failed)
        assert platform.core.failed == [(request(), address)]
        assert peers.empty() and platform.now("opened") == 0 and platform.counter("closed_handshake") == 1


# RFC 5923


def offering(alias: str) -> bytes:
    """A request whose top Via is one of TLS; *alias* stands behind the branch."""
    via = f"Via: SIP/2.0/TLS tel.example.net:5071;branch=z9hG4bK1{alias}\r\n"
    return (
        f"OPTIONS sip:a@b SIP/2.0\r\n{via}From: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\n"
        "Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    ).encode()


@pytest.mark.parametrize(
    ("alias", "proof", "used"), [(";alias", True, True), ("", True, False), (";alias", False, False)]
)
async def test_a_connection_is_used_the_other_way_only_if_offered_with_proof(
    tmp_path: Path, alias: str, proof: bool, used: bool
) -> None:
    section = tls_section(tmp_path, NAME, client_ca=write_authority(tmp_path))
    certificate = write_certificate(tmp_path, "tel", "tel.example.net") if proof else None
    async with tls_on(section) as platform:
        peer = await platform.connect(ssl=client_context(certificate=certificate), server_hostname=NAME)
        peer.send(offering(alias))
        await platform.hears(offering(alias))
        address = (peer.address[0], 5071)
        platform.streams.send([(request(), address, 1, 0)])
        if used:
            await peer.gets(request())
            peer.close()
            await until(lambda: platform.now("accepted") == 0)
            platform.streams.send([(request(), address, 1, 0)])
        await until(lambda: platform.counter("connect_failed") == 1)
        assert platform.counter("aliases") == used


# Bounds


@both_loops
async def test_a_handshake_that_does_not_end_is_cut_off(tmp_path: Path) -> None:
    async with tls_on(tls_section(tmp_path, NAME), "tls", "wss") as platform:
        idle, slow = await platform.connect(0), await platform.connect(1)
        slow.send(b"\x16\x03\x01")
        (began, *_) = (one._began for one in platform.streams._connections.values())
        platform.streams.sweep(began + connection.HANDSHAKE - 1)
        assert platform.now("accepted") == 2
        platform.streams.sweep(began + connection.HANDSHAKE + 1)
        await idle.is_closed()
        await slow.is_closed()
        assert platform.counter("closed_handshake") == 2


@both_loops
async def test_handshakes_count_as_connections_of_their_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "PER_SOURCE", 2)
    async with tls_on(tls_section(tmp_path, NAME)) as platform:
        for _ in range(2):
            await platform.connect()
        third = await platform.connect()
        await third.is_closed()
        assert platform.counter("refused_source") == 1


@both_loops
async def test_what_is_no_tls_is_closed(tmp_path: Path) -> None:
    async with tls_on(tls_section(tmp_path, NAME)) as platform:
        peer = await platform.connect()
        peer.send(request())
        await peer.is_closed()
        assert platform.counter("closed_handshake") == 1


async def test_garbage_after_the_handshake_ends_it(tmp_path: Path) -> None:
    async with tls_on(tls_section(tmp_path, NAME)) as platform:
        peer = await platform.connect(ssl=client_context(), server_hostname=NAME)
        raw = peer.writer.get_extra_info("socket").dup()
        raw.setblocking(True)
        raw.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        raw.close()
        await until(lambda: platform.counter("closed_tls") == 1)


@both_loops
async def test_half_a_record_is_cut_off_and_counted(tmp_path: Path) -> None:
    """What OpenSSL holds for a peer is within the bounds as well."""
    async with tls_on(tls_section(tmp_path, NAME)) as platform:
        peer = await platform.connect()
        client = TlsStream(client_context(), server_side=False, name=NAME)
        client.feed(b"")
        while not client.established:
            peer.send(client.output())
            client.feed(await peer.reader.read(65_536))
        client.write(request(1))
        peer.send(client.output())
        await platform.hears(request(1))
        client.write(request(2))
        record = client.output()
        peer.send(record[:3])
        await until(lambda: platform.buffered == 3)
        peer.send(record[3:-1])
        await until(lambda: platform.buffered == len(record) - 1)
        (one,) = platform.streams._connections.values()
        platform.streams.sweep(one._began + connection.PATIENCE - 1)
        assert platform.now("accepted") == 1
        platform.streams.sweep(one._began + connection.PATIENCE + 1)
        assert platform.counter("closed_incomplete") == 1 and platform.buffered == 0
        assert platform.now("accepted") == 0


# Files


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path, "one", NAME)
    _, other_key = write_certificate(tmp_path, "two", NAME)
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    cases = {
        "tls.certificate": Tls(str(tmp_path / "missing.pem"), key),
        "tls.key": Tls(certificate, other_key),
        "tls.client_ca": Tls(certificate, key, client_ca=str(text)),
        "tls.server_ca": Tls(certificate, key, server_ca=str(tmp_path / "missing-ca.pem")),
        'tls.hosts."a.b".certificate': Tls(certificate, key, hosts={"a.b": HostCertificate(str(text), key)}),
        'tls.hosts."a.b".key': Tls(certificate, key, hosts={"a.b": HostCertificate(certificate, other_key)}),
    }
    for expected, section in cases.items():
        with pytest.raises(CertificateError) as raised:
            Certificates.read(section)
        assert raised.value.mistake.path == expected, raised.value


def test_certificates_that_clients_would_refuse_today(tmp_path: Path) -> None:
    good = write_certificate(tmp_path, "good", NAME)
    old = HostCertificate(*write_certificate(tmp_path, "old", NAME, days=-1))
    soon = HostCertificate(*write_certificate(tmp_path, "soon", NAME, days=9.1))
    assert problems_of(Tls(*good), time.time()) == []
    assert problems_of(Tls(*good, hosts={"old": old, "soon": soon}), time.time()) == [
        f'tls.hosts."old".certificate: {old.certificate}: certificate has expired',
        f'tls.hosts."soon".certificate: {soon.certificate}: it expires in 9 days',
    ]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the command openssl")
async def test_openssl_as_a_client(tmp_path: Path) -> None:
    async with tls_on(tls_section(tmp_path, NAME)) as platform:
        host, port = platform.addresses[0]
        command = ["openssl", "s_client", "-connect", f"{host}:{port}", "-servername", NAME, "-verify_hostname", NAME]
        client = await asyncio.create_subprocess_exec(
            *command, "-CAfile", write_authority(tmp_path), "-verify_return_error", "-quiet",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert client.stdin is not None and client.stdout is not None
        client.stdin.write(request())
        await platform.hears(request())
        (number,) = platform.streams._connections
        platform.streams.send([(response(), (host, port), 1, number)])
        async with asyncio.timeout(10):
            assert await client.stdout.readexactly(len(response())) == response()
        client.terminate()
        await client.wait()
