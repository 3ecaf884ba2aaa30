# SPDX-License-Identifier: Apache-2.0
"""An agent's password is changed where passwords are kept: in a file, in a database."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from pjsua_phone_parts import Phone, hang_up, talk
from processes import wait_until
from site_parts import REALM, USERS, Sites

pytest.importorskip("pjsua2", reason="the wheel pjsua2-python exists for x86-64 only")


def change_in_file(sites: Sites) -> None:
    sites.set_passwords({**USERS, "1001": "changed"})
    for gateway in sites.gateways:
        wait_until(lambda log=gateway.log: "1 users changed" in log(), "the gateway to read the file")


def make_database(sites: Sites) -> None:
    with closing(sqlite3.connect(sites.place.directory / "users.db")) as one:
        one.execute("CREATE TABLE users (name TEXT PRIMARY KEY, password TEXT)")
        one.executemany("INSERT INTO users VALUES (?, ?)", USERS.items())
        one.commit()


def change_in_database(sites: Sites) -> None:
    with closing(sqlite3.connect(sites.place.directory / "users.db")) as one:
        one.execute("UPDATE users SET password = 'changed' WHERE name = '1001'")
        one.commit()


def result_of(phone: Phone, number: int) -> int:
    """The answer to one more registration with the site of this *number*."""
    phone.does(f"register {number}")
    return int(phone.hears(f"registration {number} ").split()[2])


@pytest.mark.parametrize("where", ["file", "database"])
def test_the_old_password_is_refused_and_the_new_one_taken(sites: Sites, where: str) -> None:
    """The other phone notices nothing."""
    if where == "file":
        sites.write(servers=(1, 4))
    else:
        sites.write(servers=(1, 4), credentials="sqlite:users.db", credentials_refresh=1.0)
        make_database(sites)
    sites.start()
    phone, other = Phone(sites, "1001"), Phone(sites, "1002")
    phone.registers()
    other.registers()
    (change_in_file if where == "file" else change_in_database)(sites)
    for number in (1, 2):
        wait_until(lambda number=number: result_of(phone, number) == 401, "the old password to be refused")
    phone.does("password changed")
    phone.registers(4)
    talk(other, phone, f"sip:1001@{REALM}")
    hang_up(phone, other)
