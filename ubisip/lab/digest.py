# SPDX-License-Identifier: Apache-2.0
"""A phone's side of digest authentication (RFC 7616, RFC 8760)."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterable
from typing import Any

HASHES: dict[str, Callable[[bytes], Any]] = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}
"""The algorithms that these phones know."""

_PARAMETER = re.compile(r'([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')


def answer(challenges: Iterable[str], user: str, password: str, method: str, uri: str) -> str:
    """The Authorization value for the first of *challenges* (WWW-Authenticate values) whose algorithm is known.

    :raises ValueError: there is none.
    """
    for challenge in challenges:
        values = {name.lower(): quoted or token for name, quoted, token in _PARAMETER.findall(challenge)}
        algorithm = values.get("algorithm", "MD5").upper()
        if algorithm in HASHES:
            return _credentials(values, algorithm, user, password, method, uri)
    raise ValueError("no challenge that this phone can answer")


def _credentials(values: dict[str, str], algorithm: str, user: str, password: str, method: str, uri: str) -> str:
    def digest(text: str) -> str:
        return str(HASHES[algorithm](text.encode()).hexdigest())

    realm, nonce, cnonce = values.get("realm", ""), values.get("nonce", ""), secrets.token_hex(8)
    first, second = digest(f"{user}:{realm}:{password}"), digest(f"{method}:{uri}")
    response = digest(f"{first}:{nonce}:00000001:{cnonce}:auth:{second}")
    return (
        f'Digest username="{user}", realm="{realm}", nonce="{nonce}", uri="{uri}", response="{response}", '
        f'algorithm={algorithm}, qop=auth, nc=00000001, cnonce="{cnonce}"'
    )
