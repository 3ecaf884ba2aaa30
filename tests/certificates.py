# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests, signed by an authority that lives as long as the test run."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import trustme

from ubisip.sections import Tls


@cache
def authority(name: str = "platform") -> trustme.CA:
    return trustme.CA(organization_name=name)


def write_certificate(folder: Path, stem: str, *names: str, ca: str = "platform", days: float = 30) -> tuple[str, str]:
    """Files of a certificate for *names*, valid for *days* more (or until so long ago), and of its key."""
    leaf = authority(ca).issue_cert(*names, not_after=datetime.now(UTC) + timedelta(days=days))
    certificate, key = folder / f"{stem}.pem", folder / f"{stem}.key"
    key.write_bytes(leaf.private_key_pem.bytes())
    certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    return str(certificate), str(key)


def write_authority(folder: Path, ca: str = "platform") -> str:
    """The authority's own certificate."""
    path = folder / f"{ca}-ca.pem"
    authority(ca).cert_pem.write_to_path(str(path))
    return str(path)


def tls_section(folder: Path, *names: str, **more: object) -> Tls:
    """The section [tls] of a gateway that is known by *names* and trusts the authority."""
    certificate, key = write_certificate(folder, "gateway", *names)
    return Tls(certificate, key, server_ca=write_authority(folder), **more)  # type: ignore[arg-type]


def client_context(ca: str = "platform", certificate: tuple[str, str] | None = None) -> ssl.SSLContext:
    """Of a client that trusts the authority *ca*, and shows *certificate* if asked."""
    context = ssl.create_default_context()
    authority(ca).configure_trust(context)
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return context


def server_context(certificate: tuple[str, str], client_ca: str = "") -> ssl.SSLContext:
    """Of a server that shows *certificate*, and wants clients' of the authority *client_ca*."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    if client_ca:
        authority(client_ca).configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
