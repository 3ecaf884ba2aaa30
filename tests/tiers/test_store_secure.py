# SPDX-License-Identifier: Apache-2.0
"""The store in an etcd that speaks TLS, asks for certificates and has users."""

from __future__ import annotations

import base64
import json
import re
import ssl
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import certificates
import pytest
from config_texts import GOOD, only
from tiers.daemons_common import Yard, free_port, require

from ubisip.config import Config
from ubisip.errors import UsageError
from ubisip.failover.coordination import Compare, Put, StoreError
from ubisip.failover.lease import Keys, Leadership, Member
from ubisip.health.probe import Target
from ubisip.health.probes.etcd import EtcdProbe
from ubisip.health.trust import client_context
from ubisip.proxy.tiers import store_of
from ubisip.store.etcd import EtcdStore

ROOT, USER, PASSWORD, OTHER = "root", "ubisip", "secret", "other"


class SecureEtcd:
    """One member that wants a certificate of our authority and knows the users ``root`` and ``ubisip``."""

    def __init__(self, yard: Yard) -> None:
        require("etcd")
        self._yard = yard
        client, peer = free_port(), free_port()
        self.url, peers = f"https://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
        self.ca_file = certificates.write_authority(yard.directory)
        self.certificate_file, self.key_file = certificates.write_certificate(yard.directory, "client", "gateway.test")
        certificate, key = certificates.write_certificate(yard.directory, "member", "127.0.0.1")
        self._command = yard.command(
            "etcd", "--name", "m1", "--data-dir", str(yard.directory / "data"),
            "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
            "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", f"m1={peers}",
            "--cert-file", certificate, "--key-file", key, "--trusted-ca-file", self.ca_file, "--client-cert-auth",
            "--bcrypt-cost", "4",
        )  # fmt: skip
        self.context = client_context(self.ca_file, True, self.certificate_file, self.key_file)
        self.start()
        prefix, end = (base64.b64encode(key).decode() for key in (b"/ubisip/p/", b"/ubisip/p0"))
        for path, body in (
            ("user/add", {"name": ROOT, "password": PASSWORD}),
            ("role/add", {"name": "root"}),
            ("user/grant", {"user": ROOT, "role": "root"}),
            ("user/add", {"name": USER, "password": PASSWORD}),
            ("role/add", {"name": "platform"}),
            ("role/grant", {"name": "platform", "perm": {"permType": "READWRITE", "key": prefix, "range_end": end}}),
            ("user/grant", {"user": USER, "role": "platform"}),
            ("enable", {}),
        ):
            self.call(f"auth/{path}", body)

    def start(self) -> None:
        """Start it, or start it again after a kill: it then knows no token."""
        self.child = self._yard.run("etcd", self._command)
        self._yard.until(self.child, self._is_healthy)

    def _is_healthy(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=2, context=self.context) as answer:
            return bool(json.load(answer)["health"] == "true")
        return False

    def call(self, path: str, body: object, token: str = "") -> dict[str, str]:
        headers = {"Authorization": token} if token else {}
        request = urllib.request.Request(f"{self.url}/v3/{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=5, context=self.context) as answer:
            found: dict[str, str] = json.load(answer)
            return found

    def as_root(self, path: str, body: object) -> None:
        token = self.call("auth/authenticate", {"name": ROOT, "password": PASSWORD})["token"]
        self.call(path, body, token)


@pytest.fixture(scope="module")
def etcd() -> Iterator[SecureEtcd]:
    yard = Yard()
    try:
        yield SecureEtcd(yard)
    finally:
        yard.close()


@pytest.fixture
async def store(etcd: SecureEtcd) -> AsyncIterator[EtcdStore]:
    it = EtcdStore([etcd.url], etcd.context, USER, PASSWORD)
    yield it
    await it.close()


async def test_all_that_a_controller_asks_for_is_permitted_below_its_prefix(store: EtcdStore) -> None:
    keys = Keys("p")
    leadership = Leadership(store, keys, Member("one", "PA2", 1, {}))
    await leadership.turn()
    assert leadership.epoch and not leadership.problem
    await store.renew(leadership.lease)
    assert await store.commit([Compare(keys.leader, created=leadership.epoch)], [Put(keys.plans + "a", b"1")])
    assert [entry.value for entry in await store.range(keys.plans)] == [b"1"]
    await store.tidy()
    leadership.hand_over()
    leadership.outranked = True
    await leadership.turn()
    assert await store.get(keys.leader) is None
    await leadership.resign()


async def test_what_is_not_ours_is_refused_with_the_word_of_etcd(store: EtcdStore) -> None:
    with pytest.raises(StoreError, match="permission denied"):
        await store.get("/ubisip/q/leader")


async def test_a_token_that_is_not_known_any_more_is_asked_for_anew(etcd: SecureEtcd, store: EtcdStore) -> None:
    """After a restart of etcd, and after a change of its users, which makes all tokens old."""
    await store.commit([], [Put("/ubisip/p/a", b"1")])
    etcd.child.kill()
    etcd.start()
    assert (await store.get("/ubisip/p/a")) is not None
    etcd.as_root("auth/user/add", {"name": OTHER, "password": PASSWORD})
    assert await store.commit([], [Put("/ubisip/p/a", b"2")])
    assert (await store.get("/ubisip/p/a")) is not None


@pytest.mark.parametrize(
    ("user", "password", "text"), [(USER, "wrong", "invalid user ID or password"), ("", "", "user name is empty")]
)
async def test_who_may_not_log_in_is_told_so_at_once(etcd: SecureEtcd, user: str, password: str, text: str) -> None:
    it = EtcdStore([etcd.url], etcd.context, user, password)
    with pytest.raises(StoreError, match=text):
        await it.get("/ubisip/p/a")
    await it.close()


async def test_a_member_that_is_not_trusted_or_does_not_trust_us_is_none(etcd: SecureEtcd, tmp_path: Path) -> None:
    strange = client_context(certificates.write_authority(tmp_path, "strange"), True)
    without = client_context(etcd.ca_file, True)
    for context, text in ((strange, "certificate verify failed"), (without, "no member of etcd answers")):
        it = EtcdStore([etcd.url], context, USER, PASSWORD)
        with pytest.raises(StoreError, match=text):
            await it.get("/ubisip/p/a")
        await it.close()


async def test_the_probe_shows_its_certificate_too(etcd: SecureEtcd) -> None:
    files = {"ca_file": etcd.ca_file, "certificate_file": etcd.certificate_file, "key_file": etcd.key_file}
    target = Target("etcd", "m1", "PA2", etcd.url, ROOT, PASSWORD)
    finding = await EtcdProbe(files).check(target, 2.0)
    assert finding.facts["role"] == "leader", finding
    without = await EtcdProbe({"ca_file": etcd.ca_file}).check(target, 2.0)
    assert not without.facts


# The file

STORE = """
[store]
url = "{url}"
ca_file = "{ca}"
certificate_file = "client.pem"
key_file = "client.key"
user = "ubisip"
password_file = "etcd.password"
"""


async def test_the_files_of_the_section_are_found_from_its_folder(etcd: SecureEtcd) -> None:
    folder = Path(etcd.ca_file).parent
    (folder / "etcd.password").write_text(PASSWORD)
    text = GOOD + STORE.format(url=f"etcd:{etcd.url}", ca=Path(etcd.ca_file).name)
    it = store_of(Config.parse(text, folder))
    assert await it.get("/ubisip/p/none") is None
    await it.close()
    with pytest.raises(UsageError, match=re.escape("store: ")):
        store_of(Config.parse(text, "/nowhere"))


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("store.ca_file", 'url = "etcd:http://a:1,https://b:1"\nca_file = "ca.pem"'),
        ("store.certificate_file", 'certificate_file = "client.pem"'),
        ("store.key_file", 'url = "etcd:https://a:1"\nkey_file = "client.key"'),
        ("store.user", 'url = "etcd:https://a:1"\nuser = "ubisip"'),
        ("store.user", 'user = "ubisip"\npassword_file = "a"'),
        ("store.password_file", 'url = "etcd:https://a:1"\npassword_file = "a"'),
    ],
)
def test_a_key_of_no_effect_is_a_mistake(path: str, keys: str) -> None:
    assert only(f"{GOOD}[store]\n{keys}\n").path == path


def test_a_certificate_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="certificate_file: expected a PEM file"):
        client_context("", True, str(tmp_path / "none.pem"))
    assert isinstance(client_context("", True), ssl.SSLContext)
