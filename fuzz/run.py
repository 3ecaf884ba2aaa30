# SPDX-License-Identifier: Apache-2.0
"""Run the fuzz targets: ``fuzz/run.py --seconds N [--target NAME]``.

With clang and atheris each target runs under libFuzzer, guided by the coverage of an instrumented core
(AddressSanitizer, UndefinedBehaviorSanitizer) that is built in build/fuzz. Without them, or with ``--plain``, a plain
mutation fuzzer runs on the core as it is installed. What fails is kept in build/fuzz-failures;
``--replay FILE --target NAME`` runs it again.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import mmap
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Hashable
from pathlib import Path

from mutation import DICTIONARY_FILE, mutate

ROOT = Path(__file__).resolve().parents[1]
TREE = ROOT / "build" / "fuzz"
FAILURES = ROOT / "build" / "fuzz-failures"
TARGETS = ("parser", "engine", "tokens", "registrar")
SANITIZERS = "-fsanitize=fuzzer-no-link,address,undefined"
CFLAGS = f"{SANITIZERS} -fno-sanitize=alignment,function -fno-sanitize-recover=undefined -O1 -g -fno-omit-frame-pointer"
CORPUS_MOST = 4096
"""Inputs the plain fuzzer keeps; when there are more, one at random goes."""


def target_of(name: str) -> tuple[Callable[[bytes], Hashable], list[bytes]]:
    """What runs one input of a target, and the inputs to begin with."""
    module = importlib.import_module(name)
    return module.one_input, module.seeds()


# --- the plain fuzzer

class LastInput:
    """The input that runs now, in a file that outlives a crash of the process."""

    def __init__(self, name: str) -> None:
        FAILURES.mkdir(parents=True, exist_ok=True)
        self.path = FAILURES / f"{name}-{os.getpid()}.running"
        self.path.write_bytes(bytes(1 << 17))
        with self.path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 0)

    def note(self, data: bytes) -> None:
        self.memory[: 4 + len(data)] = len(data).to_bytes(4, "big") + data

    def keep(self) -> Path:
        """Give what ran a name of its own."""
        data = self.memory[4 : 4 + int.from_bytes(self.memory[:4], "big")]
        kept = self.path.with_name(f"{self.path.name.split('-')[0]}-{hashlib.sha256(data).hexdigest()[:12]}")
        kept.write_bytes(data)
        self.path.unlink(missing_ok=True)
        return kept


def fuzz_plainly(name: str, seconds: float, seed: int) -> None:
    """Mutate what is in the corpus; an input with a new outcome joins it. An invariant that breaks raises."""
    one_input, corpus = target_of(name)
    dice, last, outcomes, count = random.Random(seed), LastInput(name), set(), 0
    end, todo = time.monotonic() + seconds, list(corpus)
    while todo or time.monotonic() < end:
        data = todo.pop() if todo else mutate(dice.choice(corpus), dice)
        last.note(data)
        try:
            outcome = one_input(data)
        except BaseException:
            print(f"{name}: broken by {last.keep()}", file=sys.stderr)
            raise
        count += 1
        if outcome not in outcomes:
            outcomes.add(outcome)
            if len(corpus) < CORPUS_MOST:
                corpus.append(data)
            else:
                corpus[dice.randrange(len(corpus))] = data
    last.path.unlink()
    print(f"{name}: {count} inputs, {len(outcomes)} outcomes, the invariant held")


def run_plainly(name: str, seconds: float, seed: int) -> int:
    """The same in a process of its own, so that a crash is told like any other failure."""
    options = ["--inside", name, "--seconds", str(seconds), "--seed", str(seed)]
    process = subprocess.Popen([sys.executable, "-X", "faulthandler", __file__, *options])
    status = process.wait()
    running = FAILURES / f"{name}-{process.pid}.running"
    if running.exists():
        data = running.read_bytes()
        kept = FAILURES / f"{name}-crash-{process.pid}"
        kept.write_bytes(data[4 : 4 + int.from_bytes(data[:4], "big")])
        running.unlink()
        print(f"{name}: crashed ({status}) on {kept}", file=sys.stderr)
    return status


# --- atheris and an instrumented core

def runtime() -> Path | None:
    """AddressSanitizer and libFuzzer in one library, as atheris brings it; None: it cannot be used here."""
    spec = importlib.util.find_spec("atheris")
    if spec is None or spec.origin is None or shutil.which("clang") is None:
        return None
    library = Path(spec.origin).parents[1] / "asan_with_fuzzer.so"
    return library if library.exists() else None


def build_instrumented() -> None:
    """A copy of the core, built with clang; only what changed is built again."""
    for folder in ("ext", "ubisip"):
        leave_out = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / folder, TREE / folder, dirs_exist_ok=True, ignore=leave_out)
    for file in ("setup.py", "pyproject.toml"):
        shutil.copy2(ROOT / file, TREE / file)
    environment = os.environ | {"CC": "clang", "CFLAGS": CFLAGS, "LDSHARED": "clang -shared", "LDFLAGS": SANITIZERS}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=TREE, env=environment, check=True, stderr=subprocess.DEVNULL)


def run_instrumented(name: str, seconds: float, seed: int, library: Path) -> int:
    """libFuzzer in a process of its own; its corpus grows from run to run in build/fuzz."""
    corpus = TREE / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    FAILURES.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(target_of(name)[1]):
        (corpus / f"seed-{number}").write_bytes(data)
    options = [f"-max_total_time={int(seconds)}", f"-artifact_prefix={FAILURES}/{name}-", f"-dict={DICTIONARY_FILE}",
               f"-seed={seed}", "-max_len=16384", "-timeout=10", "-rss_limit_mb=4096"]
    environment = os.environ | {
        "LD_PRELOAD": str(library), "PYTHONPATH": str(TREE), "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }
    command = [sys.executable, __file__, "--inside", name, "--guided", *options, str(corpus)]
    return subprocess.call(command, env=environment)


def fuzz_guided(name: str, options: list[str]) -> None:
    import atheris  # only there in this mode, and only with its library preloaded

    one_input, _ = target_of(name)

    def once(data: bytes) -> None:
        one_input(data)

    atheris.Setup([sys.argv[0], *options], once)
    atheris.Fuzz()


# --- the command

def arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description="Run the fuzz targets of the core.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each target runs (60)")
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same inputs in the same order")
    parser.add_argument("--plain", action="store_true", help="without clang and atheris, on the installed core")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one input of --target")
    parser.add_argument("--inside", choices=TARGETS, help=argparse.SUPPRESS)
    parser.add_argument("--guided", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_known_args()


def main() -> int:
    """0: every invariant held; 1: one broke, or the core crashed."""
    chosen, rest = arguments()
    if chosen.inside and chosen.guided:
        fuzz_guided(chosen.inside, rest)
        return 0
    if chosen.inside:
        fuzz_plainly(chosen.inside, chosen.seconds, chosen.seed)
        return 0
    targets = chosen.target or TARGETS
    if chosen.replay:
        print(target_of(targets[0])[0](chosen.replay.read_bytes()))
        return 0
    library = None if chosen.plain else runtime()
    if library is not None:
        build_instrumented()
        return int(any([run_instrumented(name, chosen.seconds, chosen.seed, library) for name in targets]))
    return int(any([run_plainly(name, chosen.seconds, chosen.seed) for name in targets]))


if __name__ == "__main__":
    sys.exit(main())
