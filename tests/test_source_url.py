# SPDX-License-Identifier: Apache-2.0
"""What the key agents.credentials may say."""

from __future__ import annotations

import pytest
from config_texts import AGENTS, GOOD, only

from ubisip.config import Config
from ubisip.source_url import Host, SourceUrl, parse


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("file:users.csv", SourceUrl("file", "users.csv")),
        ("sqlite:/var/lib/u.db", SourceUrl("sqlite", "/var/lib/u.db")),
        ("mariadb://db1/sip", SourceUrl("mariadb", "sip", (Host("db1", 3306),))),
        (
            "mariadb://me:p%40ss@db1:3307,db2,[::1]:3308/sip",
            SourceUrl("mariadb", "sip", (Host("db1", 3307), Host("db2", 3306), Host("::1", 3308)), "me", "p@ss"),
        ),
        ("postgresql://me@127.0.0.1/sip", SourceUrl("postgresql", "sip", (Host("127.0.0.1", 5432),), "me")),
        (
            "ldap://cn=reader,dc=x:pw@l1,l2:636/ou=people,dc=x?sipPassword,sipHa1",
            SourceUrl("ldap", "ou=people,dc=x", (Host("l1", 389), Host("l2", 636)), "cn=reader,dc=x", "pw",
                      ("sipPassword", "sipHa1")),
        ),
    ],
)  # fmt: skip
def test_sources(text: str, url: SourceUrl) -> None:
    assert parse(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "users.csv", "file:", "sqlite:", "oracle://db/x", "mariadb:db1/sip", "mariadb://db1", "mariadb:///sip",
        "mariadb://db1:0/sip", "mariadb://db1:65536/sip", "mariadb://db1,/sip", "mariadb://db 1/sip",
        "postgresql://db/sip?sslmode=none", "ldap:users",
    ],
)  # fmt: skip
def test_what_is_none_is_a_mistake_of_the_file(text: str) -> None:
    mistake = only(GOOD + AGENTS + f"credentials = '{text}'")
    assert mistake.path == "agents.credentials"
    assert "mariadb://user@db1,db2/sip" in mistake.expected


def test_files_are_seen_from_the_folder_of_the_configuration() -> None:
    keys = "credentials = 'sqlite:u.db'\ncredentials_password_file = 'pw'\ncredentials_ca_file = 'ca.pem'\n"
    agents = Config.parse(GOOD + AGENTS + keys, "/etc/ubisip").agents
    assert agents is not None
    assert agents.credentials == "sqlite:/etc/ubisip/u.db"
    assert (agents.credentials_password_file, agents.credentials_ca_file) == ("/etc/ubisip/pw", "/etc/ubisip/ca.pem")


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(parse("mariadb://me:secret@db1/sip"))
