# SPDX-License-Identifier: Apache-2.0
"""The example for HAProxy is one that HAProxy takes, and asks for members in the form that is understood."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tiers.daemons_common import find, require

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "haproxy" / "haproxy.cfg"


def test_haproxy_takes_the_example() -> None:
    require("haproxy")
    done = subprocess.run(
        [find("haproxy") or "", "-c", "-f", str(EXAMPLE)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_each_question_names_a_tier_and_the_server_of_its_line() -> None:
    lines = re.findall(r'^\s+server (\S+) .*agent-send "(.*)\\n"$', EXAMPLE.read_text(), re.MULTILINE)
    assert len(lines) == 6
    assert all(re.fullmatch(rf"(?:web|database)/{re.escape(name)}(?:/primary)?", asked) for name, asked in lines)
