# SPDX-License-Identifier: Apache-2.0
"""What an open connection costs a gateway in memory, by transport: ``python -m bench.connections --json``.

Client processes open connections from several addresses of 127.0.0.0/8, send one request over each and then hold them;
the growth of the gateway's proportional set size is shared out among them. All stay open together to the end, and
while they do, SIPp makes 50 calls a second by datagram and more TLS connections come.
"""

from __future__ import annotations

import argparse
import json
import select
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from bench import sipp
from bench.processes import cpu_ns, memory_mib, start_listener, stop

HOST = "127.0.7.1"
PORTS = {"tcp": 15060, "tls": 15061, "ws": 15080, "wss": 15443}
ADMIN = "127.0.0.1:15000"
PER_CLIENT = 900
"""Connections of one client process, all from one address: the gateway allows 1,000."""
NAME = "gateway.bench.test"
CALLS = sipp.Load(rate=50, calls=750)
MORE = 500
"""TLS connections that come during the calls."""
SETTLE = 2.0
"""Seconds from the last connection to the measurement."""

CONFIG = """\
[platform]
name = "bench"
state_dir = "state"
[sites.PA2]
[[gateways]]
name = "gw"
site = "PA2"
listen = ["udp:{host}:{udp}", "udp:{sipp_gateway}:5060", {listen}]
admin = "{admin}"
[[carriers]]
name = "sbc"
site = "PA2"
uri = "sip:{sipp_caller}:5060"
[[servers]]
name = "tel"
site = "PA2"
uri = "sip:{sipp_server}:5060"
[tls]
certificate = "gw.pem"
key = "gw.key"
"""
REQUEST = (
    "OPTIONS sip:{host} SIP/2.0\r\nVia: SIP/2.0/{transport} client.invalid;branch=z9hG4bK{number}\r\n"
    "From: <sip:a@bench.test>;tag={number}\r\nTo: <sip:a@bench.test>\r\nCall-ID: {number}\r\nCSeq: 1 OPTIONS\r\n"
    "Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
)
UPGRADE = (
    "GET / HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: sip\r\n\r\n"
)


def web_frame(payload: bytes) -> bytes:
    """A text frame of a client whose mask is zero."""
    return b"\x81\xfe" + len(payload).to_bytes(2, "big") + bytes(4) + payload


def client(transport: str, source: str, count: int) -> None:
    """Open *count* connections, say so, hold them until standard input ends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    held: list[socket.socket] = []
    for number in range(count):
        one = socket.create_connection((HOST, PORTS[transport]), 20, (source, 0))
        if transport in ("tls", "wss"):
            one = context.wrap_socket(one, server_hostname=NAME)
        request = REQUEST.format(host=HOST, transport=transport.upper(), number=f"{source}-{number}").encode()
        if transport in ("ws", "wss"):
            one.sendall(UPGRADE.encode())
            assert b" 101 " in one.recv(4096)
            request = web_frame(request)
        one.sendall(request)
        held.append(one)
    print(count, flush=True)
    sys.stdin.read()
    ended = sum(_ended(one) for one in held)
    print(ended, flush=True)


def _ended(one: socket.socket) -> bool:
    """Whether the gateway has closed it; answers that came are read."""
    one.setblocking(False)
    try:
        while select.select([one], [], [], 0)[0]:
            if not one.recv(65_536):
                return True
    except (ssl.SSLError, BlockingIOError):  # what TLS says to itself
        return False
    except OSError:
        return True
    return False


class Clients:
    """Client processes that hold connections of one transport."""

    def __init__(self, transport: str, count: int, first: int) -> None:
        self.processes: list[subprocess.Popen[str]] = []
        left, number = count, first
        while left:
            some = min(left, PER_CLIENT)
            command = [sys.executable, "-m", "bench.connections", "--client", transport]
            command += [f"127.0.{100 + number // 200}.{1 + number % 200}", str(some)]
            self.processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            left, number = left - some, number + 1

    def wait(self) -> None:
        for one in self.processes:
            assert one.stdout is not None
            if not one.stdout.readline():
                raise RuntimeError("a client could not open its connections")

    def end(self) -> int:
        """Let go of them; gives how many the gateway had closed meanwhile."""
        ended = 0
        for one in self.processes:
            assert one.stdin is not None and one.stdout is not None
            one.stdin.close()
            ended += int(one.stdout.readline() or 0)
            one.wait()
        return ended


def write_place(directory: Path) -> Path:
    """The configuration and a certificate of elliptic curves, as most are now."""
    listen = ", ".join(f'"{transport}:{HOST}:{port}"' for transport, port in PORTS.items())
    path = directory / "platform.toml"
    sipp_places = {"sipp_gateway": sipp.GATEWAY, "sipp_caller": sipp.CALLER, "sipp_server": sipp.server_addresses(1)[0]}
    path.write_text(CONFIG.format(host=HOST, udp=PORTS["tcp"], listen=listen, admin=ADMIN, **sipp_places))
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", "gw.key", "-out", "gw.pem", "-subj", f"/CN={NAME}", "-days", "2"]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
    return path


def call(directory: Path, clients: list[Clients]) -> dict[str, object]:
    """Make CALLS while MORE connections come to those of *clients*; what the caller saw."""
    servers = sipp.start_servers(sipp.server_addresses(1), directory, None)
    try:
        time.sleep(SETTLE)  # a probe finds the server
        caller = sipp.start_caller(CALLS, directory, None)
        clients.append(Clients("tls", MORE, 40 * len(clients)))
        clients[-1].wait()
        caller.wait()
    finally:
        for server in servers:
            stop(server)
    seen = sipp.outcome(directory)
    delays = {"pdd_p99_ms": seen.percentile(0.99), "pdd_max_ms": seen.percentile(1.0)}
    return {"made": seen.made, "lost": seen.made - seen.good, "retransmissions": seen.retransmissions, **delays}


def open_now() -> int:
    """Connections that the gateway itself says are open."""
    with urllib.request.urlopen(f"http://{ADMIN}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(int(float(line.split()[1])) for line in lines if line.startswith("ubisip_stream_connections{"))


def measure(counts: Sequence[tuple[str, int]]) -> dict[str, object]:
    """Open what *counts* says, one transport after the other; KiB and CPU by connection of each."""
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        command = [sys.executable, "-m", "ubisip.proxy", "--config", str(write_place(directory)), "--node", "gw"]
        log = directory / "gateway.log"
        gateway = start_listener(command, (HOST, PORTS["tcp"]), None, log, directory)
        clients: list[Clients] = []
        rows: dict[str, dict[str, float]] = {}
        try:
            time.sleep(SETTLE)
            started = memory_mib(gateway.pid)
            for transport, count in counts:
                before, cpu, began = memory_mib(gateway.pid), cpu_ns(gateway.pid), time.monotonic()
                clients.append(Clients(transport, count, 40 * len(clients)))
                clients[-1].wait()
                seconds = time.monotonic() - began
                time.sleep(SETTLE)
                rows[transport] = {
                    "connections": count,
                    "kib_each": round((memory_mib(gateway.pid) - before) * 1024 / count, 2),
                    "cpu_ms_each": round((cpu_ns(gateway.pid) - cpu) / 1e6 / count, 3),
                    "seconds": round(seconds, 1),
                }
            total = memory_mib(gateway.pid)
            calls = call(directory, clients)
            opened = open_now()
            closed = sum(one.end() for one in clients)
        finally:
            stop(gateway, signal.SIGTERM)
    return {
        "pss_mib": {"started": round(started, 1), "all_open": round(total, 1)},
        "open": opened,
        "closed": closed,
        "calls": calls,
        "by": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--client", nargs=3, metavar=("TRANSPORT", "SOURCE", "COUNT"), help=argparse.SUPPRESS)
    for transport, count in (("tcp", 10_000), ("tls", 2_000), ("ws", 2_000), ("wss", 1_000)):
        parser.add_argument(f"--{transport}", type=int, default=count, metavar="N", help="(%(default)s)")
    options = parser.parse_args()
    if options.client:
        client(options.client[0], options.client[1], int(options.client[2]))
        return
    counts = [(name, getattr(options, name)) for name in PORTS if getattr(options, name)]
    result = measure(counts)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"gateway: {result['pss_mib']} MiB, {result['open']} connections open, {result['closed']} closed by it")
    print(f"calls meanwhile: {result['calls']}")
    rows = result["by"]
    assert isinstance(rows, dict)
    for name, row in rows.items():
        print(f"{name}: {row['connections']:,} open, {row['kib_each']} KiB and {row['cpu_ms_each']} ms of CPU each")


if __name__ == "__main__":
    main()
