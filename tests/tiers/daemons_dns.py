# SPDX-License-Identifier: Apache-2.0
"""BIND as daemons of the tests: a primary that takes updates signed with TSIG, and a secondary."""

from __future__ import annotations

import subprocess
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rcode
from processes import Child
from tiers.daemons_common import Yard, find, free_port, require

ZONE = "example.test"
KEY = "ubisip."


OPTIONS = """
key "ubisip." {{ algorithm hmac-sha256; secret "{secret}"; }};
key "rndc-key" {{ algorithm hmac-sha256; secret "{secret}"; }};
controls {{ inet 127.0.0.1 port {control} allow {{ 127.0.0.1; }} keys {{ "rndc-key"; }}; }};
options {{
    directory "{directory}";
    pid-file "{directory}/named.pid";
    session-keyfile "{directory}/session.key";
    listen-on port {port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    recursion no;
    dnssec-validation no;
    allow-transfer {{ 127.0.0.1; }};
    notify explicit;
    also-notify {{ {notify} }};
    notify-delay 0;
    serial-query-rate 100;
}};
"""
PRIMARY = """
zone "example.test" {{ type primary; file "{directory}/zone"; allow-update {{ {update} }}; }};
"""
SECONDARY = """
zone "example.test" {{
    type secondary; file "{directory}/zone"; primaries port {primary} {{ 127.0.0.1; }}; allow-notify {{ 127.0.0.1; }};
}};
"""
RECORDS = """$TTL 30
@ SOA ns1 hostmaster 1 3600 600 86400 30
@ NS ns1
ns1 A 127.0.0.1
www A 192.0.2.1
db A 192.0.2.31
"""
SECRET = "Zm91ciBzY29yZSBhbmQgc2V2ZW4geWVhcnMgYWdvIG8="


class Named:
    """One name server."""

    def __init__(self, yard: Yard, port: int, zone: str, notify: int = 0, records: str = "") -> None:
        require("named", "rndc")
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self._yard = yard
        self._control = free_port()
        self.directory = yard.folder(f"named-{port}")
        if records:
            yard.write(f"named-{port}/zone", records)
        facts = {"secret": SECRET, "control": self._control, "directory": self.directory, "port": port}
        self._notify = f"127.0.0.1 port {notify};" if notify else ""
        self._head = OPTIONS.format(notify=self._notify, **facts)
        self.config = yard.write(f"named-{port}.conf", self._head + zone)
        self._rndc = yard.write(
            f"rndc-{port}.key", f'key "rndc-key" {{ algorithm hmac-sha256; secret "{SECRET}"; }};\n'
        )
        self.child = self.start()

    def start(self) -> Child:
        command = self._yard.command("named", "-g", "-n", "1", "-c", str(self.config))
        self.child = self._yard.run("named", command)
        return self._yard.until(self.child, self._answers)

    def _answers(self) -> bool:
        try:
            return self.rcode() is dns.rcode.NOERROR
        except (OSError, dns.exception.DNSException):
            return False

    def rcode(self, name: str = ZONE, kind: str = "SOA") -> dns.rcode.Rcode:
        query = dns.message.make_query(name, kind)
        return dns.query.udp(query, "127.0.0.1", 1, self.port).rcode()

    def values(self, name: str, kind: str = "A") -> list[str]:
        """The values of a set of records."""
        answer = dns.query.udp(dns.message.make_query(name, kind), "127.0.0.1", 2, self.port)
        return sorted(rdata.to_text() for rrset in answer.answer for rdata in rrset)

    def serial(self) -> int:
        return int(self.values(ZONE, "SOA")[0].split()[2])

    def rndc(self, *words: str) -> None:
        """Say something to its control channel."""
        path = find("rndc")
        assert path
        command = [path, "-s", "127.0.0.1", "-p", str(self._control), "-k", str(self._rndc), *words]
        subprocess.run(command, check=True, capture_output=True)

    def replace_zone(self, zone: str) -> None:
        """Another zone statement from now on."""
        self.config.write_text(self._head + zone)
        self.rndc("reconfig")


def primary(yard: Yard, notify: int = 0) -> Named:
    """The primary name server of example.test."""
    port = free_port()
    directory = yard.directory / f"named-{port}"
    return Named(yard, port, primary_zone(directory, True), notify, RECORDS)


def primary_zone(directory: Path, updates: bool) -> str:
    return PRIMARY.format(directory=directory, update='key "ubisip.";' if updates else "none;")


def secondary(yard: Yard, primary_port: int, port: int) -> Named:
    """A secondary name server that follows it."""
    directory = yard.directory / f"named-{port}"
    return Named(yard, port, SECONDARY.format(directory=directory, primary=primary_port))


def key_file(yard: Yard) -> str:
    """The file with the secret of the key for updates."""
    return str(yard.write("tsig.key", SECRET, 0o600))
