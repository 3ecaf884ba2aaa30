# SPDX-License-Identifier: Apache-2.0
"""Registrars side by side, and what a gateway's bindings cost: CPU time a registration, memory, time of a replay.

    python -m bench.register --rate 1000 --users 10000 --rounds 5

A registration is REGISTER, 401, REGISTER with credentials, 200, over UDP from one SIPp; Kamailio and ubisip in turn
under the same load, as in bench.sidebyside. Then 100,000 phones register with one gateway, whose memory is compared
with that of one without any; and a telephony server that comes back empty is told 10,000 bindings.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import processes, sipp
from bench.candidates import PEERS, Place, kamailio_modules, platform_file
from bench.sidebyside import PROXY_CPU, QUIET, SIPP_CPU, Measure
from ubisip.lab.platform import DOMAIN as LAB_DOMAIN
from ubisip.lab.platform import PASSWORD as LAB_PASSWORD

DOMAIN, PASSWORD = "ubisip.test", "secret"
"""As in the scenario and in Kamailio's configuration."""
AGENTS = """
[agents]
realm = "{domain}"
domains = ["{domain}"]
credentials = "file:{users}"
mirror = "{mirror}"
"""
NOBODY = (f"{sipp.server_addresses(1)[0]}:{sipp.PORT}",)
"""A telephony server that is not there: a gateway must have one."""
SETTLE = 3.0
"""Seconds for a program to come to rest."""
START_UP = 60.0
"""Seconds for a gateway to have read its users."""


def kamailio(place: Place, _users: Path) -> list[str]:
    """Kamailio with registrar, usrloc in memory and the tlsf allocator."""
    text = (PEERS / "kamailio-registrar.cfg").read_text()
    for word, value in {"LISTEN": place.listen, "CHILDREN": "1", "MODULES": kamailio_modules()}.items():
        text = text.replace(f"={word}", f"={value}").replace(f'"{word}"', f'"{value}"').replace(f":{word}", f":{value}")
    config = place.directory / "kamailio.cfg"
    config.write_text(text)
    memory = ["-m", "1024", "-M", "64", "-x", "tlsf", "-X", "tlsf"]
    return ["kamailio", "-DD", "-f", str(config), *memory, "-Y", str(place.directory), "-w", str(place.directory)]


def ubisip(place: Place, users: Path) -> list[str]:
    """This project, one gateway with one worker, bindings kept on disk as by default."""
    return gateway(place, AGENTS.format(domain=DOMAIN, users=users, mirror="off"))


def gateway(place: Place, section: str) -> list[str]:
    """The command of a gateway with *section* in its configuration."""
    config = platform_file(place, section)
    return [sys.executable, "-m", "ubisip.proxy", "--config", str(config), "--node", "bench"]


CANDIDATES: dict[str, Callable[[Place, Path], list[str]]] = {"kamailio": kamailio, "ubisip": ubisip}


def write_users(directory: Path, count: int) -> Path:
    """The users, for SIPp in ``sipp-users.csv``; returns the file for the candidates, name;password a line."""
    names = [f"agent{number}" for number in range(count)]
    keyword = "[authentication username={name} password={password}]"
    lines = (f"{name};{keyword.format(name=name, password=PASSWORD)}\n" for name in names)
    (directory / "sipp-users.csv").write_text("SEQUENTIAL\n" + "".join(lines))
    users = directory / "users.csv"
    users.write_text("".join(f"{name};{PASSWORD}\n" for name in names))
    return users


# --- CPU time a registration


def measure(name: str, load: sipp.Load, users: int, directory: Path) -> Measure:
    """Start registrar *name*, put *load* on it, stop it."""
    place, log, at = Place(directory, servers=NOBODY), directory / f"{name}.log", (sipp.GATEWAY, sipp.PORT)
    try:
        command = CANDIDATES[name](place, write_users(directory, users))
        proxy = processes.start_listener(command, at, PROXY_CPU, log, directory)
    except RuntimeError as error:
        return Measure(void=str(error))
    try:
        time.sleep(SETTLE)
        before = processes.cpu_ns(proxy.pid)
        _caller(load, directory).wait()
        used, memory = processes.cpu_ns(proxy.pid) - before, processes.memory_mib(proxy.pid)
        seen = sipp.outcome(directory)
        return Measure(used / 1000 / load.calls, memory, _seen(seen), void_reason(seen, load))
    except RuntimeError as error:
        return Measure(void=str(error))
    finally:
        processes.stop(proxy)


def _caller(load: sipp.Load, directory: Path) -> subprocess.Popen[bytes]:
    (directory / "caller.csv").unlink(missing_ok=True)
    command = ["sipp", "-sf", str(sipp.SCENARIOS / "register.xml"), f"{sipp.GATEWAY}:{sipp.PORT}"]
    command += ["-i", sipp.CALLER, "-p", str(sipp.PORT), "-inf", "sipp-users.csv"]
    command += ["-r", str(load.rate), "-rp", "1000", "-m", str(load.calls), "-l", "20000"]
    command += ["-trace_stat", "-stf", "caller.csv", "-fd", "1", *sipp.QUIET]
    command += ["-timeout", str(int(load.calls / load.rate * 3 + 60))]
    return processes.start(command, SIPP_CPU, directory / "caller.log", directory)


def _seen(seen: sipp.Outcome) -> dict[str, Any]:
    return {"cps": seen.cps, "failed": seen.failed, "retransmissions": seen.retransmissions}


def void_reason(seen: sipp.Outcome, load: sipp.Load) -> str:
    """Why a run says nothing about its candidate; empty when it does."""
    if seen.made < load.calls or seen.cps < 0.98 * load.rate:
        return f"made {seen.made} registrations at {seen.cps:.0f}/s instead of {load.calls} at {load.rate}/s"
    if seen.failed > 0.001 * load.calls:
        return f"{seen.failed} of {load.calls} registrations failed"
    if seen.retransmissions > 0.001 * 2 * load.calls:
        return f"{seen.retransmissions} retransmissions"
    return ""


def side_by_side(load: sipp.Load, users: int, rounds: int, console: Console) -> list[dict[str, Measure]]:
    """Both registrars in turn, *rounds* times."""
    done: list[dict[str, Measure]] = []
    with tempfile.TemporaryDirectory(prefix="register-") as work:
        for number in range(1, rounds + 1):
            done.append({})
            for name in CANDIDATES:
                done[-1][name] = one = measure(name, load, users, Path(work))
                told = f"{one.us_per_call:.1f} us a registration, {one.pss_mib:.1f} MiB {one.seen}"
                console.print(f"round {number} {name}: {told}{f'; void: {one.void}' if one.void else ''}")
    return done


def summary(rounds: Sequence[dict[str, Measure]]) -> dict[str, Any]:
    """Medians over the sound rounds, and the ratio to Kamailio of the same round."""
    result: dict[str, Any] = {}
    for name in CANDIDATES:
        sound = [one[name] for one in rounds if not one[name].void]
        result[name] = {"rounds": len(rounds), "void": len(rounds) - len(sound)}
        if sound:
            result[name]["us_per_registration"] = statistics.median(one.us_per_call for one in sound)
            result[name]["pss_mib"] = statistics.median(one.pss_mib for one in sound)
    pairs = [one for one in rounds if not (one["kamailio"].void or one["ubisip"].void)]
    ratios = [one["ubisip"].us_per_call / one["kamailio"].us_per_call for one in pairs]
    spread = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)} if ratios else None
    return result | {"ratio": spread}


# --- memory and replay


def storm(count: int, directory: Path, within: float, *more: str) -> None:
    """Let *count* phones register; *more* are options of ubisip.lab.storm.

    :raises RuntimeError: not all are.
    """
    command = [sys.executable, "-m", "ubisip.lab.storm", f"{sipp.GATEWAY}:{sipp.PORT}", "--hosts", sipp.CALLER]
    command += ["--phones", str(count), "--within", str(within), "--limit", str(within * 4 + 60), *more]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=directory)
    if run.returncode:
        raise RuntimeError(f"not all phones are registered: {run.stdout}{run.stderr[-1000:]}")


def _lab_users(directory: Path, count: int) -> Path:
    users = directory / "lab-users.csv"
    users.write_text("".join(f"agent{number};{LAB_PASSWORD}\n" for number in range(1, count + 1)))
    return users


def memory(count: int) -> dict[str, float]:
    """Octets that one gateway grows by for each of *count* phones: binding, credentials, files' buffers.

    Of phones as in the scenario, and of those with ``+sip.instance`` and ``reg-id``.

    :raises RuntimeError: not all phones were registered.
    """
    none, plain, flows = _held(1, 0), _held(count, count, "--plain"), _held(count, count)
    return {"bindings": count, "octets_a_binding": (plain - none) / count, "octets_a_flow": (flows - none) / count}


def _held(users: int, phones: int, *more: str) -> float:
    """Octets held by a gateway that knows so many users and has as many phones, at rest."""
    with tempfile.TemporaryDirectory(prefix="register-") as work:
        return _held_in(Path(work), users, phones, *more)


def _held_in(directory: Path, users: int, phones: int, *more: str) -> float:
    section = AGENTS.format(domain=LAB_DOMAIN, users=_lab_users(directory, users), mirror="off")
    command = gateway(Place(directory, servers=NOBODY), section)
    at = (sipp.GATEWAY, sipp.PORT)
    running = processes.start_listener(command, at, None, directory / "gateway.log", directory, START_UP)
    try:
        time.sleep(SETTLE)
        if phones:
            storm(phones, directory, phones / 1500, *more)
            time.sleep(SETTLE)
        return processes.memory_mib(running.pid) * 2**20
    finally:
        processes.stop(running)


def replay(count: int) -> dict[str, float]:
    """Seconds from the return of an empty server until it has *count* bindings again.

    :raises RuntimeError: it never had.
    """
    with tempfile.TemporaryDirectory(prefix="register-") as work:
        directory = Path(work)
        servers = [f"{host}:{sipp.PORT}" for host in sipp.server_addresses(3)]
        section = AGENTS.format(domain=LAB_DOMAIN, users=_lab_users(directory, count), mirror="site")
        command = gateway(Place(directory, servers=servers), section)
        registrars = subprocess.Popen(
            [sys.executable, "-m", "ubisip.lab.registrars", *servers],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=directory,
        )  # fmt: skip
        at = (sipp.GATEWAY, sipp.PORT)
        running = processes.start_listener(command, at, None, directory / "gateway.log", directory, START_UP)
        try:
            time.sleep(SETTLE)
            storm(count, directory, count / 1000)
            return {"bindings": count, "seconds": _replayed(registrars, servers[0], count)}
        finally:
            processes.stop(running)
            registrars.terminate()
            registrars.communicate()


def _replayed(registrars: subprocess.Popen[str], server: str, count: int) -> float:
    _obey(registrars, f"kill {server}")
    time.sleep(SETTLE * 2)  # the gateway sees it down
    _obey(registrars, f"start {server}")
    back = time.monotonic()
    while (held := _obey(registrars, "count")[server]) < count:
        if time.monotonic() > back + 120:
            raise RuntimeError(f"{server} has {held:.0f} of {count} bindings")
        time.sleep(0.1)
    return _obey(registrars, "last")[server] - back


def _obey(registrars: subprocess.Popen[str], command: str) -> dict[str, float]:
    assert registrars.stdin and registrars.stdout
    registrars.stdin.write(f"{command}\n")
    registrars.stdin.flush()
    line = registrars.stdout.readline()
    while line == "ready\n":
        line = registrars.stdout.readline()
    answer: dict[str, float] = json.loads(line)
    return answer


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=1000, help="registrations per second (1000)")
    parser.add_argument("--users", type=int, default=10_000, help="each registers twice in a round (10000)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bindings", type=int, default=100_000, help="for the memory (100000)")
    parser.add_argument("--replayed", type=int, default=10_000, help="for the replay (10000)")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    args = parser.parse_args(words)
    console, busy = Console(highlight=False), os.getloadavg()[0]
    if busy > QUIET:
        console.print(f"This machine is not quiet (load average {busy:.1f}): expect void rounds and wide ranges.")
    load = sipp.Load(args.rate, 2 * args.users)
    rounds = side_by_side(load, args.users, args.rounds, console)
    figures = summary(rounds)
    result: dict[str, Any] = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average_before": busy,
        "machine": processes.versions(),
        "load": {"rate": load.rate, "registrations": load.calls, "users": args.users},
        "rounds": [{name: vars(one) for name, one in done.items()} for done in rounds],
        "summary": figures,
        "memory": memory(args.bindings),
        "replay": replay(args.replayed),
    }
    for key in ("summary", "memory", "replay"):
        console.print(f"{key}: {result[key]}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return int(figures["ratio"] is None)


if __name__ == "__main__":
    raise SystemExit(main())
