# SPDX-License-Identifier: Apache-2.0
"""Probe ``tls``: a handshake succeeds, and for how many days the certificate still holds."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from cryptography import x509

from ubisip.address import split_address
from ubisip.health.asking import PROTOCOL, ask, failed, passed, short, warned
from ubisip.health.probe import Finding, Target
from ubisip.health.probes.tcp import connection
from ubisip.health.trust import client_context
from ubisip.parameters import read_parameters
from ubisip.schema import Between

DAY = 86_400.0
EXPIRED = 10
"""X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL."""


@dataclass(frozen=True, slots=True)
class TlsParameters:
    """Whom to trust, and when to warn."""

    warn_days: Annotated[float, Between(0, 3650)] = 14.0
    """A certificate that ends sooner is a warning."""
    server_name: str = ""
    """The name that is asked for and must be in the certificate; empty: the host of the address."""
    ca_file: str = ""
    """PEM file of the authorities that are trusted; empty: those of the system."""
    verify: bool = True
    """Whether a chain that is not trusted, or another name, is a failure."""


class TlsProbe:
    """A handshake with ``host:port``."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = read_parameters(TlsParameters, parameters)
        self._context = client_context(self._parameters.ca_file, self._parameters.verify)

    async def check(self, target: Target, timeout: float) -> Finding:
        return await ask(self._check(target), timeout)

    async def _check(self, target: Target) -> Finding:
        host, port = split_address(target.address, 443)
        try:
            async with connection(host, port, self._context, self._parameters.server_name or host) as (_, writer):
                session: ssl.SSLObject = writer.get_extra_info("ssl_object")
                certificate = session.getpeercert(binary_form=True) or b""
                version = session.version() or ""
        except ssl.SSLError as error:
            return of_tls_error(error)
        return self._finding(certificate, version)

    def _finding(self, certificate: bytes, version: str) -> Finding:
        read = x509.load_der_x509_certificate(certificate)
        days = (read.not_valid_after_utc.timestamp() - time.time()) / DAY
        facts = {
            "days_left": round(days, 2),
            "not_after": read.not_valid_after_utc.isoformat(),
            "subject": short(read.subject.rfc4514_string()),
            "issuer": short(read.issuer.rfc4514_string()),
            "version": version,
        }
        if days <= 0:
            return failed("tls.expired", facts, f"the certificate ended {-days:.1f} days ago")
        if days < self._parameters.warn_days:
            return warned("tls.expires", facts, f"the certificate ends in {days:.1f} days")
        return passed(facts)

    async def close(self) -> None:
        """It keeps no connections."""


def of_tls_error(error: ssl.SSLError) -> Finding:
    """The finding of a handshake that failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = "tls.expired" if error.verify_code == EXPIRED else "tls.untrusted"
        return failed(reason, problem=f"the certificate is not accepted: {short(error.verify_message)}")
    return failed(PROTOCOL, problem=f"no TLS: {short(error.reason or error)}")
