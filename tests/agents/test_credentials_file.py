# SPDX-License-Identifier: Apache-2.0
"""Credentials from a file: its forms, its mistakes, and what changes while the gateway runs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from ubisip.agents.file import FileSource
from ubisip.agents.secret import Digests, Secret, digests_of
from ubisip.agents.source import Change, Listing, Options, open_source
from ubisip.errors import UsageError
from ubisip.sections import Agents
from ubisip.source_url import SourceUrl

REALM = "ubisip.test"
MD5, SHA256, SHA512 = "ab" * 16, "cd" * 32, "ef" * 32


def source(path: Path, text: str) -> FileSource:
    path.write_text(text)
    return FileSource(Options(SourceUrl("file", str(path)), REALM, "", "", "", None))


def by_password(user: str, password: str, realm: str = REALM) -> Digests:
    return digests_of(Secret(password), user, realm)


async def users(path: Path, text: str) -> dict[tuple[str, str], Digests | None]:
    return {(change.user, change.realm): change.digests for change in await source(path, text).changes()}


async def test_csv(tmp_path: Path) -> None:
    text = f"""\
# agents
1001;secret
1002;other.test;{MD5}
1002;other.test;SHA-512-256:{SHA512}

1003;{REALM};{SHA256}
1004;"semi;colon ""quoted\"\""
1005; spaces stay
dédé;mot de passe à l'œil
1006;
"""
    assert await users(tmp_path / "users.csv", text) == {
        ("1001", REALM): by_password("1001", "secret"),
        ("1002", "other.test"): (b"\xab" * 16, b"", b"\xef" * 32),
        ("1003", REALM): (b"", b"\xcd" * 32, b""),
        ("1004", REALM): by_password("1004", 'semi;colon "quoted"'),
        ("1005", REALM): by_password("1005", " spaces stay"),
        ("dédé", REALM): by_password("dédé", "mot de passe à l'œil"),
        ("1006", REALM): by_password("1006", ""),
    }


async def test_toml(tmp_path: Path) -> None:
    text = f"""\
[users]
1001 = "secret"
1002 = {{ realm = "other.test", password = "secret" }}
"1003" = {{ ha1 = ["{MD5}", "SHA-512-256:{SHA512}"] }}
"""
    assert await users(tmp_path / "users.toml", text) == {
        ("1001", REALM): by_password("1001", "secret"),
        ("1002", "other.test"): by_password("1002", "secret", "other.test"),
        ("1003", REALM): (b"\xab" * 16, b"", b"\xef" * 32),
    }


async def test_mistakes_are_named_by_line_without_secrets_and_the_rest_is_taken(tmp_path: Path) -> None:
    one = source(tmp_path / "users.csv", f"1001;secret\nalone\n;nobody\na;b;hunter2\na;b;c;d\n1002;{REALM};{MD5}\n")
    assert [change.user for change in await one.changes()] == ["1001", "1002"]
    assert len(one.mistakes) == 4
    assert one.mistakes[2] == f"{tmp_path}/users.csv: line 4: expected name;password or name;realm;ha1"


@pytest.mark.parametrize(
    "value",
    ["5", "{}", "{ password = 5 }", "{ ha1 = 'abc' }", "{ ha1 = ['abc'] }", "{ pasword = 'x' }", "[]", "{ha1=[1]}"],
)
async def test_a_user_who_is_none_in_toml_is_named(tmp_path: Path, value: str) -> None:
    one = source(tmp_path / "users.toml", f"[users]\nbad = {value}\ngood = 'x'\n")
    assert [change.user for change in await one.changes()] == ["good"]
    assert one.mistakes == [
        f'{tmp_path}/users.toml: users.bad: expected "password" or {{ realm, password, ha1 = ["..."] }}'
    ]


async def test_a_change_is_seen_when_it_has_settled_and_only_what_changed_is_told(tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    one = source(path, "alice;a\nbob;b\ncarol;c\n")
    assert len(await one.changes()) == 3
    assert not await one.changes()
    path.write_text("alice;a\nbob;new\ndave;d\n")
    assert not await one.changes()  # whoever writes may not be done
    assert list(await one.changes()) == [
        Change("bob", REALM, by_password("bob", "new")),
        Change("dave", REALM, by_password("dave", "d")),
        Change("carol", REALM, None),
    ]
    assert await one.credentials("carol", REALM) is None
    assert await one.credentials("bob", REALM) is not None
    assert not await one.changes()


@pytest.mark.parametrize(
    ("name", "text"), [("users.toml", "[users"), ("users.toml", "users = 5"), ("users.csv", "# none\n")]
)
async def test_a_file_that_became_nonsense_changes_nothing(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    one = source(path, '[users]\nalice = "a"\n' if name.endswith("toml") else "alice;a\n")
    assert len(await one.changes()) == 1
    path.write_text(text)
    await one.changes()
    for _ in range(2):  # it is told until somebody mends it
        with pytest.raises(ValueError):
            await one.changes()
    os.unlink(path)
    with pytest.raises(FileNotFoundError):
        await one.changes()
    assert await one.credentials("alice", REALM) is not None


async def test_a_large_file_leaves_turns_to_the_loop(tmp_path: Path) -> None:
    one = source(tmp_path / "users.csv", "".join(f"agent{number};secret\n" for number in range(5_000)))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(others())
    assert len(await one.changes()) == 5_000
    task.cancel()
    assert turns > 20


async def test_the_configuration_opens_it(tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("alice;a\n")
    one = open_source(Agents(realm=REALM, domains=(REALM,), credentials=f"file:{tmp_path}/users.csv"))
    assert isinstance(one, Listing)
    assert [change.user for change in await one.changes()] == ["alice"]
    await one.close()


@pytest.mark.parametrize(
    ("key", "says"),
    [("credentials_password_file", "No such file"), ("credentials_ca_file", "No such file")],
)
def test_a_file_that_is_missing_is_named(key: str, says: str) -> None:
    agents = Agents(realm=REALM, credentials="mariadb://db1/sip", **{key: "/nowhere"})
    with pytest.raises(UsageError, match=f"agents.{key}: .*{says}"):
        open_source(agents)
