# SPDX-License-Identifier: Apache-2.0
"""RFC 3261 section 22, RFC 7616, RFC 8760: who may register."""

from __future__ import annotations

import itertools

import pytest
from agents import (
    DOMAIN,
    HASHES,
    PASSWORD,
    Phone,
    agents,
    bindings,
    challenges,
    counter,
    credential,
    phone,
    registrar,
)
from plain_sip import Packet
from wire import KEY, OTHER_KEY

ALL = ["SHA-256", "SHA-512-256", "MD5"]
HOME, AWAY = ("127.0.9.1", 5062), ("127.0.66.6", 5062)


def masked(packet: Packet) -> list[str]:
    """A response without what differs from one to the next: branch, tags, nonce."""
    kept = ("WWW-Authenticate", "Content-Length")
    lines = [line for name in kept for line in packet.lines(name)]
    return [packet.start, *[line if "nonce" not in line else line.partition("nonce=")[2][34:] for line in lines]]


# --- challenges

def test_the_strongest_is_offered_first() -> None:
    alice = Phone(registrar())
    assert list(challenges(alice.send(alice.request()))) == ALL


@pytest.mark.parametrize("algorithm", HASHES)
def test_each_algorithm(algorithm: str) -> None:
    wire = registrar()
    assert Phone(wire, algorithm=algorithm).register().status == 200
    wrong = Phone(wire, address=("127.0.9.2", 5062), algorithm=algorithm, password="no").register()
    assert wrong.status == 401 and len(bindings(wire)) == 1


@pytest.mark.parametrize("algorithm", HASHES)
def test_an_account_of_one_algorithm_is_offered_that_one(algorithm: str) -> None:
    wire = registrar(users=())
    credential(wire, "old", algorithms=[algorithm])
    old = Phone(wire, "old")
    assert list(challenges(old.send(old.request()))) == [algorithm]
    assert old.register().status == 200


def test_what_was_not_offered_is_challenged_and_no_wrong_password() -> None:
    wire = registrar(users=())
    credential(wire, "old", algorithms=["MD5"])
    old = Phone(wire, "old", algorithm="MD5")
    old.send(old.request())
    for _ in range(20):
        old.challenge["algorithm"] = "SHA-256"
        assert old.again().status == 401
    assert counter(wire, "wrong_passwords") == 0
    assert old.register().status == 200


def test_accounts_that_have_no_algorithm_in_common_leave_a_challenge_for_strangers() -> None:
    wire = registrar(users=())
    credential(wire, "old", algorithms=["MD5"])
    credential(wire, "new", algorithms=["SHA-256"])
    nobody = Phone(wire, "nobody")
    assert list(challenges(nobody.send(nobody.request()))) == ALL


def test_the_realm_is_the_configurations() -> None:
    alice = Phone(registrar())
    assert {c["realm"] for c in challenges(alice.send(alice.request())).values()} == {DOMAIN}


def test_credentials_for_another_realm_are_none() -> None:
    wire = registrar()
    alice = Phone(wire)
    alice.send(alice.request())
    answer = alice.again(headers=[("Authorization",
        "Digest username=\"a\", realm=\"x\", nonce=\"n\", uri=\"u\", response=\"" + "0" * 32 + "\"")])
    assert answer.status == 200


@pytest.mark.parametrize("line", ["Digest", "Digest username", "Digest username=\"a\r\n b\"",
    "Digest realm=\"ubisip.test\"",
                                  "Basic YTpi", "", "Digest username=\"a\0b\", realm=\"ubisip.test\""])
def test_credentials_that_cannot_be_read(line: str) -> None:
    wire = registrar()
    alice = Phone(wire)
    answer = alice.send(alice.request([("Authorization", line)]))
    assert answer.status in (400, 401) and bindings(wire) == []


# --- nonces

def test_an_old_nonce_is_stale() -> None:
    wire = registrar()
    alice = phone(wire)
    wire.run(601)
    answer = alice.again([("Expires", "120")])
    assert answer.status == 401 and {c["stale"] for c in challenges(answer).values()} == {"true"}
    assert alice.again([("Expires", "120")]).status == 200
    assert counter(wire, "wrong_passwords") == 0


def test_a_nonce_of_nobody_is_stale_too() -> None:
    wire = registrar()
    alice = Phone(wire)
    alice.send(alice.request())
    alice.challenge["nonce"] = "f" * 32
    assert {c["stale"] for c in challenges(alice.again()).values()} == {"true"}
    assert counter(wire, "wrong_passwords") == 0


def test_a_nonce_is_good_on_every_gateway_with_the_key() -> None:
    one, two = registrar(), registrar(keys=[OTHER_KEY, KEY])
    alice = Phone(one)
    alice.send(alice.request())
    alice.wire = two
    assert alice.again().status == 200


def test_and_on_no_other() -> None:
    one, two = registrar(), registrar(keys=[OTHER_KEY])
    alice = Phone(one)
    alice.send(alice.request())
    alice.wire = two
    assert alice.again().status == 401 and bindings(two) == []


def test_a_nonce_may_be_used_again_and_again_with_rising_counts() -> None:
    wire = registrar()
    alice = phone(wire)
    assert [alice.again().status for _ in range(20)] == [200] * 20
    assert counter(wire, "challenged") == 1


def test_a_count_that_was_used_is_stale() -> None:
    wire = registrar()
    alice = phone(wire)
    alice.nonce_count = 0
    answer = alice.again([("Expires", "120")])
    assert answer.status == 401 and "stale" in challenges(answer)["SHA-256"]
    assert counter(wire, "replays") == 1


def test_four_phones_of_a_user_each_with_its_nonce() -> None:
    wire = registrar()
    phones = []
    for number in range(4):
        wire.run(1)
        phones.append(phone(wire, number=number + 1))
    for _ in range(3):
        wire.run(100)
        assert [each.again().status for each in phones] == [200] * 4
    assert counter(wire, "challenged") == 4


def test_more_phones_than_are_remembered_are_challenged_more_often_and_all_served() -> None:
    wire = registrar()
    phones = []
    for number in range(8):
        wire.run(1)
        phones.append(phone(wire, number=number + 1))
    wire.run(10)
    for each in phones:
        wire.run(1)
        if each.again().status == 401:
            assert each.again().status == 200
    assert len(bindings(wire)) == 8


# --- what was overheard

@pytest.mark.parametrize("same_ip", [True, False])
def test_a_register_repeated_from_elsewhere_never_moves_a_flow(same_ip: bool) -> None:
    wire = registrar()
    alice = Phone(wire, contact="<sip:alice@192.168.1.2>")
    alice.send(alice.request())
    heard = alice.authorized()
    assert alice.send(heard).status == 200
    before = bindings(wire)
    thief = wire.agent("127.0.9.1" if same_ip else AWAY[0], 6666)
    for data in (bytes(heard), bytes(heard).replace(b"192.168.1.2", b"66.66.66.6"),
                 bytes(heard).replace(b"CSeq: 2", b"CSeq: 9"), bytes(heard).replace(b"reg-alice", b"new-alice")):
        thief.send(data.replace(b"127.0.9.1:5062;branch=z9hG4bK", b"127.0.66.6:6666;rport;branch=z9hG4bK-thief"))
    assert bindings(wire) == before
    assert set(thief.statuses()) == {401}
    assert b"192.168.1.2" not in b"".join(p.data for p in thief.inbox), "nor tells where he is"


def test_a_register_overheard_is_of_no_use_on_the_other_site() -> None:
    one, two = registrar(), registrar()
    alice = Phone(one)
    alice.send(alice.request())
    heard = bytes(alice.authorized())
    two.agent(*AWAY).send(heard.replace(b"127.0.9.1", b"127.0.66.6"))
    assert bindings(two) == [] and two.agent(*AWAY).statuses() == [401]


def test_a_lost_200_is_given_again() -> None:
    wire = registrar()
    alice = Phone(wire)
    alice.send(alice.request())
    request = alice.authorized()
    first, second = alice.send(request), alice.send(request)
    assert (first.status, second.status) == (200, 200)
    assert first.values("Contact") == second.values("Contact")
    assert (counter(wire, "registered"), counter(wire, "refreshed"), counter(wire, "replays")) == (1, 0, 0)


def test_a_register_again_and_again_changes_nothing_but_once() -> None:
    wire = registrar()
    alice = Phone(wire)
    alice.send(alice.request())
    request = alice.authorized()
    alice.send(request)
    wire.run(30)
    alice.send(request)
    assert len(bindings(wire)) == 1 and bindings(wire)[0][8] == pytest.approx(wire.now + 1.79e9 + 3570, abs=1)


# --- wrong passwords, unknown users

def test_a_wrong_password_is_401_and_counted() -> None:
    wire = registrar()
    answer = Phone(wire, password="wrong").register()
    assert answer.status == 401 and "stale" not in challenges(answer)["MD5"]
    assert (counter(wire, "wrong_passwords"), bindings(wire)) == (1, [])


def test_an_unknown_user_is_told_the_same_as_a_wrong_password() -> None:
    wire = registrar()
    seen = []
    for user, address in (("alice", HOME), ("nobody", AWAY)):
        someone = Phone(wire, user, address, password="wrong")
        answers = [someone.send(someone.request())]
        answers += [someone.again() for _ in range(14)]
        seen.append([masked(answer) for answer in answers])
    assert seen[0] == seen[1]
    assert seen[0][-1][0].startswith("SIP/2.0 403"), "both are tried out"


def test_the_limit_is_of_one_user_from_one_address() -> None:
    wire = registrar()
    mallory = Phone(wire, address=AWAY, password="wrong")
    statuses = [mallory.register().status]
    statuses += [mallory.again().status for _ in range(12)]
    assert statuses == [401] * 10 + [403] * 3
    assert counter(wire, "tries_refused") == 3
    phone(wire)  # alice at home is let in all the same
    assert Phone(wire, "bob", AWAY).register().status == 200  # and others where the guesser is


def test_even_the_right_password_must_wait_where_too_many_wrong_ones_came_from() -> None:
    wire = registrar()
    mallory = Phone(wire, address=AWAY, password="wrong")
    mallory.register()
    for _ in range(9):
        mallory.again()
    mallory.password = PASSWORD
    assert mallory.again().status == 403
    wire.run(6.1)
    assert mallory.again().status == 200


def test_a_source_that_tries_many_names_is_stopped_too() -> None:
    wire = registrar()
    statuses = []
    for number in range(220):
        guess = Phone(wire, f"user{number}", AWAY, password="wrong")
        statuses.append(guess.register().status)
    assert statuses[:200] == [401] * 200 and statuses[-1] == 403
    phone(wire)


def test_what_others_do_makes_nobody_forget_a_guesser() -> None:
    wire = registrar(users=[f"u{n}" for n in range(300)] + ["alice"])
    mallory = Phone(wire, address=AWAY, password="wrong")
    mallory.register()
    for _ in range(9):
        mallory.again()
    for number in range(300):
        Phone(wire, f"u{number}", (f"127.1.{number // 200}.{number % 200}", 5062)).register()
    assert mallory.again().status == 403


# --- digests that are asked for

def asking(**options: object) -> object:
    return registrar(users=(), complete=False, **options)


def test_digests_are_asked_for_once() -> None:
    wire = asking()
    alice = Phone(wire)
    alice.send(alice.request())
    assert wire.events("credentials") == [], "nobody is asked before somebody answers a challenge"
    assert alice.again() is None
    (event,) = wire.events("credentials")
    assert event.data == f"alice\0{DOMAIN}".encode()
    credential(wire, "alice")
    assert alice.agent.statuses() == [401, 200]
    assert alice.again().status == 200 and wire.events("credentials") == []


def test_many_who_wait_for_one_user_ask_once() -> None:
    wire = asking()
    phones = [Phone(wire, address=(f"127.0.9.{n}", 5062)) for n in range(1, 5)]
    for each in phones:
        each.send(each.request())
        assert each.again() is None
    assert len(wire.events("credentials")) == 1
    credential(wire, "alice")
    assert [each.agent.statuses()[-1] for each in phones] == [200] * 4


def test_an_unknown_user_is_asked_for_and_told_what_a_wrong_password_is() -> None:
    wire = asking()
    nobody = Phone(wire, "nobody")
    nobody.send(nobody.request())
    nobody.again()
    wire.engine.credential("nobody", DOMAIN, b"", b"", b"", False, float("inf"), wire.now)
    wire.settle()
    assert nobody.agent.statuses() == [401, 401] and counter(wire, "wrong_passwords") == 1


def test_a_source_that_fails_is_503_with_retry_after() -> None:
    wire = asking()
    alice = Phone(wire)
    alice.send(alice.request())
    alice.again()
    wire.engine.credential_failed("alice", DOMAIN, wire.now)
    wire.settle()
    answer = alice.agent.inbox[-1]
    assert answer.status == 503 and 5 <= int(answer.get("Retry-After")) < 35
    assert counter(wire, "wrong_passwords") == 0


def test_a_source_that_is_late_is_503_after_three_seconds() -> None:
    wire = asking()
    alice = Phone(wire)
    alice.send(alice.request())
    alice.again()
    wire.run(2.9)
    assert alice.agent.statuses() == [401]
    wire.run(0.2)
    assert alice.agent.statuses() == [401, 503]
    credential(wire, "alice")
    wire.run(1)
    assert alice.agent.statuses() == [401, 503], "and what comes then answers nobody twice"
    wire.run(60)
    assert wire.transactions == 0 and wire.engine.next_timer() is None


def test_a_retransmission_while_digests_are_asked_for_is_absorbed() -> None:
    wire = asking()
    alice = Phone(wire)
    alice.send(alice.request())
    request = alice.authorized()
    for _ in range(4):
        alice.send(request)
    assert len(wire.events("credentials")) == 1
    credential(wire, "alice")
    assert alice.agent.statuses() == [401, 200]


def test_a_wrong_password_of_a_known_user_asks_again_for_it_may_have_been_changed() -> None:
    wire = asking()
    alice = Phone(wire)
    alice.register()
    credential(wire, "alice", "old")
    alice.again()
    assert len(wire.events("credentials")) == 2
    credential(wire, "alice", PASSWORD)
    assert alice.agent.statuses()[-1] == 200
    assert counter(wire, "wrong_passwords") == 1


def test_digests_that_are_no_longer_good_are_asked_for_again() -> None:
    wire = asking()
    credential(wire, "alice", lifetime=300.0)
    alice = Phone(wire)
    assert alice.register().status == 200
    wire.run(301)
    assert alice.again() is None and len(wire.events("credentials")) == 1
    credential(wire, "alice", lifetime=300.0)
    assert alice.agent.statuses()[-1] == 200


def test_a_user_who_is_gone_gets_in_no_more() -> None:
    wire = asking()
    credential(wire, "alice")
    alice = phone(wire)
    wire.engine.credential("alice", DOMAIN, b"", b"", b"", False, float("inf"), wire.now)
    assert alice.again() is None
    wire.engine.credential("alice", DOMAIN, b"", b"", b"", False, float("inf"), wire.now)
    wire.settle()
    assert alice.agent.statuses()[-1] == 401


def test_more_than_can_wait_are_told_to_come_back() -> None:
    wire = asking()
    parked = []
    for number in range(1030):
        someone = Phone(wire, f"u{number}", (f"127.1.{number // 250}.{1 + number % 250}", 5062))
        someone.send(someone.request())
        parked.append(someone.again())
    assert [answer is None for answer in parked] == [True] * 1024 + [False] * 6
    assert {answer.status for answer in parked[1024:]} == {503}
    wire.run(40)
    assert wire.transactions == 0
    alice = Phone(wire)
    alice.send(alice.request())
    assert alice.again() is None, "there is room again"


def test_a_foreign_answer_about_credentials_moves_nobody() -> None:
    wire = asking()
    alice = Phone(wire)
    alice.send(alice.request())
    alice.again()
    credential(wire, "bob")
    credential(wire, "alice", realm="another")
    assert alice.agent.statuses() == [401]


def test_parameters_of_the_credential_call_are_checked() -> None:
    wire = asking()
    for digests in itertools.product((b"", b"x", bytes(33)), repeat=3):
        if any(digests):
            with pytest.raises(ValueError, match="octets"):
                wire.engine.credential("alice", DOMAIN, *digests, True, 1.0, wire.now)
    with pytest.raises(ValueError, match="long"):
        wire.engine.credential("a" * 513, DOMAIN, b"", b"", b"", False, 1.0, wire.now)


def test_asked_for_digests_and_mirrored() -> None:
    wire = asking(text=agents(2, mirror="site"))
    for tel in wire.tels:
        tel.handler = lambda packet, tel=tel: packet.method == "REGISTER" and tel.reply(packet, 200)
    alice = Phone(wire)
    alice.send(alice.request())
    alice.again()
    credential(wire, "alice")
    assert alice.agent.statuses() == [401, 200]
    assert [len(tel.requests("REGISTER")) for tel in wire.tels] == [1, 1]


# --- [agents] algorithms: what is offered, and in which order

@pytest.mark.parametrize("wanted", [
    ["MD5"], ["SHA-256"], ["SHA-512-256"], ["SHA-512-256", "SHA-256"], ["SHA-512-256", "MD5"],
    ["SHA-512-256", "SHA-256", "MD5"], ["SHA-256", "SHA-512-256", "MD5"],
])
def test_the_configuration_says_what_is_offered_and_in_which_order(wanted: list[str]) -> None:
    wire = registrar(agents(algorithms=wanted))
    alice, nobody = Phone(wire), Phone(wire, "nobody", ("127.0.9.2", 5062))
    assert list(challenges(alice.send(alice.request()))) == wanted
    assert list(challenges(nobody.send(nobody.request()))) == wanted
    for algorithm in wanted:
        assert Phone(wire, address=("127.0.9.3", 5062), algorithm=algorithm).register().status == 200


def test_what_is_not_offered_is_not_taken_and_is_no_wrong_password() -> None:
    wire = registrar(agents(algorithms=["SHA-256"]))
    alice = Phone(wire)
    alice.send(alice.request())
    for _ in range(20):
        alice.challenge["algorithm"] = "MD5"
        answer = alice.again()
        assert answer.status == 401 and list(challenges(answer)) == ["SHA-256"]
    assert counter(wire, "wrong_passwords") == 0
    assert alice.register().status == 200


def test_who_has_none_of_those_offered_is_challenged_like_anybody_and_cannot_register() -> None:
    wire = registrar(agents(algorithms=["MD5"]))
    credential(wire, "new", algorithms=["SHA-256"])
    new = Phone(wire, "new")
    answer = new.register()
    assert answer.status == 401 and list(challenges(answer)) == ["MD5"]


def test_a_reload_changes_what_is_offered() -> None:
    wire = registrar()
    alice = phone(wire)
    wire.swap(text=agents(algorithms=["MD5"]))
    answer = alice.again()
    assert answer.status == 401 and list(challenges(answer)) == ["MD5"]
    assert alice.again().status == 200
