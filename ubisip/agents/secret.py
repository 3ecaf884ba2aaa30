# SPDX-License-Identifier: Apache-2.0
"""What an agent proves to know: a password, or what digest authentication makes of it (RFC 7616 section 3.4.2)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

ALGORITHMS: Mapping[str, int] = {"MD5": 16, "SHA-256": 32, "SHA-512-256": 32}
"""The algorithms of RFC 8760, and the octets of their digests."""
_HEX = re.compile(r"[0-9a-fA-F]+")
_UNMARKED = {32: "MD5", 64: "SHA-256"}  # hex digits; an unmarked SHA-512-256 cannot be told from a SHA-256


class Digests(NamedTuple):
    """HA1 by algorithm as raw octets; b"" where it cannot be made."""

    md5: bytes
    sha256: bytes
    sha512_256: bytes


NO_DIGESTS = Digests(b"", b"", b"")


@dataclass(frozen=True, slots=True)
class Secret:
    """A password, or HA1s in hex by algorithm (``MD5``, ``SHA-256``, ``SHA-512-256``), or both.

    :raises ValueError: an HA1 is none.
    """

    password: str | None = field(default=None, repr=False)
    """None: only the HA1s are known."""
    ha1: Mapping[str, str] = field(default_factory=dict, repr=False)
    """They come before what the password would give."""

    def __post_init__(self) -> None:
        for algorithm, digits in self.ha1.items():
            if len(digits) != 2 * ALGORITHMS.get(algorithm, 0) or not _HEX.fullmatch(digits):
                raise ValueError(f"expected {' or '.join(ALGORITHMS)} and the hex digits of an HA1")


def digests_of(secret: Secret, user: str, realm: str) -> Digests:
    """The HA1s of *user* in *realm*."""
    made = dict.fromkeys(ALGORITHMS, b"")
    if secret.password is not None:
        text = f"{user}:{realm}:{secret.password}".encode(errors="surrogateescape")
        made["MD5"] = hashlib.md5(text, usedforsecurity=False).digest()
        made["SHA-256"] = hashlib.sha256(text).digest()
        if "sha512_256" in hashlib.algorithms_available:
            made["SHA-512-256"] = hashlib.new("sha512_256", text).digest()
    made.update((algorithm, bytes.fromhex(digits)) for algorithm, digits in secret.ha1.items())
    return Digests(made["MD5"], made["SHA-256"], made["SHA-512-256"])


def read_ha1(text: str) -> tuple[str, str]:
    """Algorithm and hex digits of ``SHA-512-256:0f3a...``; without a mark, 32 digits are MD5 and 64 SHA-256.

    :raises ValueError: it is no HA1; the text does not repeat it.
    """
    mark, colon, digits = text.strip().rpartition(":")
    algorithm = mark.upper() if colon else _UNMARKED.get(len(digits), "")
    if len(digits) != 2 * ALGORITHMS.get(algorithm, 0) or not _HEX.fullmatch(digits):
        raise ValueError("an HA1: 32 hex digits (MD5), 64 (SHA-256), or MD5: SHA-256: SHA-512-256: before them")
    return algorithm, digits


def secret_of_ha1s(texts: Iterable[str]) -> Secret:
    """The secret whose HA1s are *texts*, each as :func:`read_ha1` wants it.

    :raises ValueError: one is no HA1.
    """
    return Secret(ha1=dict(read_ha1(text) for text in texts))


def merged(first: Secret, second: Secret) -> Secret:
    """Both; what *second* says anew it says instead."""
    password = first.password if second.password is None else second.password
    return Secret(password, {**first.ha1, **second.ha1})
