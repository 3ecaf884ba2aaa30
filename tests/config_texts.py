# SPDX-License-Identifier: Apache-2.0
"""A small good configuration, ways to spoil it, its mistakes; ``#!`` ends the line that a mistake must be told at."""

from __future__ import annotations

import pytest

from ubisip.config import Config
from ubisip.errors import ConfigError, Mistake

GOOD = """\
[platform]
name = "p"
key_file = "ring"
[sites.A]
[sites.B]
[[carriers]]
name = "sbc"
site = "A"
uri = "sip:192.0.2.1"
[[gateways]]
name = "gw1"
site = "A"
listen = ["udp:127.0.0.1:5060"]
[[gateways]]
name = "gw2"
site = "B"
listen = ["udp:127.0.0.2:5060"]
[[servers]]
name = "tel1"
site = "A"
uri = "sip:127.0.0.1:5071"
sources = ["127.0.0.1:5071"]
[[servers]]
name = "tel2"
site = "B"
uri = "sip:127.0.0.1:5072"
sources = ["127.0.0.1:5072"]
"""
TIER = """
[tiers.db]
kind = "mariadb"
members = [
  { name = "a", site = "A", address = "127.0.0.1:1" },
  { name = "b", site = "B", address = "127.0.0.1:2" },
]
"""
INLINE_SERVER = '{ name = "tel", site = "A", uri = "sip:127.0.0.1:5071" }'
AGENTS = "[agents]\nrealm = 'r'\ndomains = ['d']\n"


def mistakes(text: str) -> list[Mistake]:
    with pytest.raises(ConfigError) as caught:
        Config.parse(text, file="platform.toml")
    return list(caught.value.mistakes)


def only(text: str) -> Mistake:
    found = mistakes(text)
    assert len(found) == 1, "\n".join(map(str, found))
    return found[0]


def marked(text: str) -> int:
    """Number of the line that ends in the mark."""
    (line,) = (number for number, line in enumerate(text.splitlines(), 1) if line.endswith("#!"))
    return line


def changed(old: str, new: str, text: str = GOOD, occurrence: int = 1) -> str:
    """*text* with the given occurrence of *old* replaced."""
    parts = text.split(old)
    assert len(parts) > occurrence, f"{old!r} occurs {len(parts) - 1} times"
    return old.join(parts[:occurrence]) + new + old.join(parts[occurrence:])
