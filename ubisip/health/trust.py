# SPDX-License-Identifier: Apache-2.0
"""What clients of ours trust: one TLS context for probes, actions, sinks and the store."""

from __future__ import annotations

import ssl


def client_context(ca_file: str, verify: bool, certificate_file: str = "", key_file: str = "") -> ssl.SSLContext:
    """What a client trusts, and the certificate that it shows; an empty *key_file*: its key is in the same file.

    :raises ValueError: a file cannot be read or holds something else.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise ValueError(f"ca_file: expected a PEM file with certificates, found {ca_file}: {error}") from None
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate_file:
        try:
            context.load_cert_chain(certificate_file, key_file or None)
        except OSError as error:
            expected = "expected a PEM file with a certificate and its key"
            raise ValueError(f"certificate_file: {expected}, found {certificate_file}: {error}") from None
    return context
