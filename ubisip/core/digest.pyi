# SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypedDict

ALGORITHM_NAMES: tuple[str, ...]
"""``MD5``, ``SHA-256``, ``SHA-512-256``, as they stand in a header field."""

NONCE_STATES: tuple[str, ...]
"""``good``, ``stale`` (ours, of another time: challenge again with stale=true), ``bad`` (not ours)."""

class Credentials(TypedDict):
    """The parameters of an Authorization; a parameter that is absent is empty."""

    username: str
    """Without its quotes, as written: a quoted-pair is left as it is, see ``has_escapes``."""
    realm: str
    nonce: str
    uri: str
    response: str
    cnonce: str
    nc: str
    qop: str
    opaque: str
    algorithm: str
    """One of ALGORITHM_NAMES; empty: one that we do not know; ``MD5`` when none is named."""
    nonce_count: int
    """Value of nc; 0 without qop."""
    has_escapes: bool
    """The username holds quoted-pairs."""

class NonceCheck(NamedTuple):
    """What a nonce is worth, and what it tells."""

    state: Literal["good", "stale", "bad"]
    seconds: int
    """Unix time of its issue; 0 when it is bad."""
    salt: int
    """0 when it is bad."""

def ha1(algorithm_name: str, user: str, realm: str, password: str) -> bytes:
    """H(user:realm:password): 16 octets for MD5, else 32; what a store of credentials may keep instead of passwords.

    :raises ValueError: *algorithm_name* is none of ALGORITHM_NAMES.
    """

def parse(value: bytes | memoryview) -> Credentials | None:
    """Read the value of one Authorization or Proxy-Authorization; None: another scheme than Digest, or not sound."""

def check(header_value: bytes, ha1: bytes, method: bytes) -> bool:
    """Whether *header_value* holds the response of who knows the password behind *ha1*, to a request of *method*.

    False as well when it is not sound, names an algorithm that we do not know or that is not the one of *ha1*, or says
    qop=auth-int. Nonce, realm and uri are the caller's to check.
    """

def verify_many(header_value: bytes, ha1: bytes, method: bytes, times: int) -> float:
    """Nanoseconds per verification of a response that is right, over *times* of them in C.

    :raises ValueError: check() would say False.
    """

def nonce(keys: Sequence[bytes], seconds: int, salt: int) -> str:
    """A nonce that every gateway with one of *keys* (16 octets each, the first signs) accepts; *seconds* is unix time.

    :raises ValueError: *keys* is no key ring.
    """

def nonce_state(keys: Sequence[bytes], nonce: str, now: int, lifetime: int) -> NonceCheck:
    """Whether *nonce* was issued under one of *keys* and is at most *lifetime* seconds old, or 5 in the future.

    :raises ValueError: *keys* is no key ring.
    """
