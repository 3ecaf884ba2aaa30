# SPDX-License-Identifier: Apache-2.0
"""A bounded run of every fuzz target (`make fuzz` runs them for long), and the tools they stand on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FUZZ = ROOT / "fuzz"
SECONDS = {"parser": 5, "engine": 10, "tokens": 3, "registrar": 8}


def run(*arguments: str, folder: Path = FUZZ) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{FUZZ}"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )


@pytest.mark.parametrize("target", SECONDS)
def test_its_invariant_holds(target: str) -> None:
    done = run(str(FUZZ / "run.py"), "--plain", "--target", target, "--seconds", str(SECONDS[target]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{target}: " in done.stdout
    assert "the invariant held" in done.stdout


@pytest.mark.parametrize("target", SECONDS)
def test_its_invariant_is_stated(target: str) -> None:
    assert '"""Invariant: ' in (FUZZ / f"{target}.py").read_text()


def test_the_engine_target_plays_whole_calls() -> None:
    """A target whose seeds end at the first 400 would hold any invariant."""
    code = (
        "import engine, mutation\n"
        "play = engine.Play(mutation.Reader(engine.seeds()[0]))\n"
        "while play.reader.more: play.step()\n"
        "print(*(d.data.split()[0].decode() for d in play.requests))\n"
        "print(*(d.data.split()[1].decode() for d in play.responses if d.data.split()[1] != b'100'))\n"
    )
    done = run("-c", code)
    assert done.stdout.splitlines() == ["INVITE ACK BYE", "180 200 200"], done.stderr


def test_the_token_target_tells_true_from_forged() -> None:
    code = (
        "import tokens\nfrom platform_under_test import *\nfrom ubisip.core.engine import Engine\n"
        "for data, source in ((tokens.RINGING, tokens.SERVER), (tokens.BYE, CARRIERS[0])):\n"
        "    engine = Engine(PLAIN, [KEY])\n    engine.receive(data, source, 0, 1.0)\n    print(len(engine.outbox()))\n"
    )
    assert run("-c", code).stdout.split() == ["1", "1"]


def test_a_broken_invariant_is_told_and_its_input_kept(tmp_path: Path) -> None:
    for name in ("run.py", "mutation.py", "sip.dict"):
        (tmp_path / "fuzz").mkdir(exist_ok=True)
        (tmp_path / "fuzz" / name).write_bytes((FUZZ / name).read_bytes())
    broken = "def seeds(): return [b'a']\ndef one_input(data):\n    assert b'INVITE' not in data\n    return data\n"
    (tmp_path / "fuzz" / "parser.py").write_text(broken)
    done = run(str(tmp_path / "fuzz" / "run.py"), "--plain", "--target", "parser", "--seconds", "60", folder=tmp_path)
    (kept,) = (tmp_path / "build" / "fuzz-failures").iterdir()
    assert done.returncode == 1
    assert str(kept) in done.stderr
    assert b"INVITE" in kept.read_bytes()


def test_a_crash_is_told_and_its_input_kept(tmp_path: Path) -> None:
    for name in ("run.py", "mutation.py", "sip.dict"):
        (tmp_path / "fuzz").mkdir(exist_ok=True)
        (tmp_path / "fuzz" / name).write_bytes((FUZZ / name).read_bytes())
    crashing = "import os\ndef seeds(): return [b'boom']\ndef one_input(data): os.abort()\n"
    (tmp_path / "fuzz" / "parser.py").write_text(crashing)
    done = run(str(tmp_path / "fuzz" / "run.py"), "--plain", "--target", "parser", "--seconds", "1", folder=tmp_path)
    (kept,) = (tmp_path / "build" / "fuzz-failures").iterdir()
    assert done.returncode == 1
    assert kept.read_bytes() == b"boom"


def test_the_dictionary_is_read() -> None:
    code = "from mutation import DICTIONARY as d; print(b'\\r\\n' in d, b'\\\\\"' in d, len(d))"
    true, quoted, count = run("-c", code).stdout.split()
    assert (true, quoted) == ("True", "True")
    assert int(count) > 80


def test_the_same_seed_makes_the_same_faults() -> None:
    code = (
        "import mutation, random\ndice = random.Random(7)\n"
        "print([mutation.mutate(b'INVITE sip:a SIP/2.0', dice) for _ in range(9)])\n"
    )
    assert run("-c", code).stdout == run("-c", code).stdout
