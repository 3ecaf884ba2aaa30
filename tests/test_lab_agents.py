# SPDX-License-Identifier: Apache-2.0
"""The lab's agents: phones that stay registered, the queue that calls them, a server's register of where they are."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import re
from typing import Any

import pytest
from lab_parts import BRIEF, QUICK, SBC, SERVER, parties, until

from ubisip.core.message import Message
from ubisip.lab import phone as phones
from ubisip.lab.digest import answer
from ubisip.lab.nexthops import NextHops
from ubisip.lab.party import Behaviour
from ubisip.lab.phone import Phone
from ubisip.lab.platform import PASSWORD
from ubisip.lab.queue import Locations, Queue
from ubisip.lab.sbc import Sbc
from ubisip.lab.server import Server
from ubisip.lab.tally import Tally
from ubisip.lab.transactions import ServerTransaction
from ubisip.lab.udp import Address
from ubisip.lab.useragent import UserAgent

PHONE: Address = ("127.77.5.1", 5060)
GATEWAYS: list[Address] = [("127.77.2.1", 5060), ("127.77.2.2", 5060), ("127.77.2.3", 5060)]
CHALLENGE = 'Digest realm="ubisip.lab", nonce="n1", qop="auth", algorithm=MD5'


class Registrar(UserAgent):
    """Asks for a password and grants *expires* seconds; ``status`` other than 200 refuses."""

    def __init__(self, address: Address, expires: int = 60) -> None:
        super().__init__("registrar", address, timers=QUICK)
        self.expires = expires
        self.status = 200
        self.taken: list[Message] = []
        """REGISTERs with the right password."""

    def on_register(self, transaction: ServerTransaction) -> None:
        request = transaction.request
        if self.status != 200:
            transaction.respond(self.status)
        elif not is_right(request):
            transaction.respond(401, headers=[f"WWW-Authenticate: {CHALLENGE}"])
        else:
            self.taken.append(request)
            contact = (request.get("Contact") or "").partition(";")[0]
            transaction.respond(200, headers=[f"Contact: {contact};expires={self.expires}"])


def is_right(request: Message) -> bool:
    """The Authorization of *request* is what RFC 7616 makes of the password."""
    given = dict(re.findall(r'(\w+)="?([^",]*)"?', request.get("Authorization") or ""))
    return bool(given) and given["response"] == response_of(given, "REGISTER", hashlib.md5)


def response_of(given: dict[str, str], method: str, algorithm: Any) -> str:
    """RFC 7616 section 3.4.1."""

    def digest(text: str) -> str:
        return str(algorithm(text.encode()).hexdigest())

    first = digest(f"{given['username']}:{given['realm']}:{PASSWORD}")
    second = digest(f"{method}:{given['uri']}")
    return digest(f"{first}:{given['nonce']}:{given['nc']}:{given['cnonce']}:{given['qop']}:{second}")


def phone(**options: Any) -> Phone:
    return Phone("agent1", PHONE, Tally(), **{"behaviour": BRIEF, "timers": QUICK, **options})


# --- digest


@pytest.mark.parametrize(("algorithm", "name"), [("MD5", "md5"), ("SHA-256", "sha256")])
def test_the_first_challenge_whose_algorithm_is_known_is_answered(algorithm: str, name: str) -> None:
    challenges = [
        'Digest realm="other", nonce="n2", qop="auth", algorithm=SHA-512-256',
        f'Digest realm="ubisip.lab", nonce="n3", qop="auth", algorithm ={algorithm}',
        'Digest realm="ubisip.lab", nonce="n4", qop="auth", algorithm=MD5',
    ]
    text = answer(challenges, "agent1", PASSWORD, "REGISTER", "sip:ubisip.lab")
    given = dict(re.findall(r'(\w+)="?([^",]*)"?', text))
    assert (given["nonce"], given["algorithm"], given["uri"]) == ("n3", algorithm, "sip:ubisip.lab")
    assert given["response"] == response_of(given, "REGISTER", getattr(hashlib, name))


def test_challenges_that_nobody_can_answer() -> None:
    with pytest.raises(ValueError, match="no challenge"):
        answer(['Digest realm="r", nonce="n", algorithm=SHA-512-256'], "agent1", PASSWORD, "REGISTER", "sip:x")


# --- phones


async def test_a_phone_registers_one_flow_with_each_site() -> None:
    registrars = [Registrar(address) for address in GATEWAYS[:2]]
    agent = phone()
    async with parties(agent, *registrars):
        agent.register([[registrar.address] for registrar in registrars])
        assert agent.sites == 0
        await until(lambda: agent.sites == 2)
    contacts = [registrar.taken[0].get("Contact") or "" for registrar in registrars]
    assert [";reg-id=1;" in contacts[0], ";reg-id=2;" in contacts[1]] == [True, True]
    instances = {re.findall(r'\+sip\.instance="<urn:uuid:([^>]*)>"', contact)[0] for contact in contacts}
    assert len(instances) == 1
    assert all(registrar.taken[0].get("Supported") == "path, outbound" for registrar in registrars)


async def test_a_registration_is_refreshed_in_the_same_call_before_it_expires() -> None:
    registrar, agent = Registrar(GATEWAYS[0], expires=1), phone()
    loop = asyncio.get_running_loop()
    async with parties(agent, registrar):
        agent.register([[registrar.address]])
        await until(lambda: len(registrar.taken) == 1)
        first = loop.time()
        await until(lambda: len(registrar.taken) == 3)
        took = loop.time() - first
    assert took >= 0.75  # two refreshes, each after 0.4 to 0.5 s
    assert len({request.call_id for request in registrar.taken}) == 1
    numbers = [request.cseq for request in registrar.taken]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("trouble", ["silent", "refuses"])
async def test_another_gateway_of_the_site_is_tried(trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phones, "REGISTER_WITHIN", 0.2)
    monkeypatch.setattr(phones, "AGAIN", 0.05)
    registrars = {address: Registrar(address) for address in GATEWAYS}
    agent = phone()
    async with parties(agent, *registrars.values()):
        agent.register([GATEWAYS])
        await until(lambda: agent.sites == 1)
        chosen = next(registrar for registrar in registrars.values() if registrar.taken)
        agent.forget()
        for registrar in registrars.values():
            registrar.taken.clear()
        if trouble == "silent":
            chosen.close()
        else:
            chosen.status = 503
        agent.register([[chosen.address, *(address for address in GATEWAYS if address != chosen.address)]])
        await until(lambda: agent.sites == 1)
    assert not chosen.taken
    assert sum(bool(registrar.taken) for registrar in registrars.values()) == 1


async def test_a_phone_that_is_refused_everywhere_is_not_registered_and_goes_on_trying(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(phones, "AGAIN", 0.05)
    registrar, agent = Registrar(GATEWAYS[0], expires=1), phone()
    async with parties(agent, registrar):
        agent.register([[registrar.address]])
        await until(lambda: agent.sites == 1)
        registrar.status = 503
        await until(lambda: agent.sites == 0)
        registrar.status = 200
        await until(lambda: agent.sites == 1)


# --- the queue


def test_the_agent_who_has_waited_longest_takes_the_call() -> None:
    queue = Queue((f"agent{number}" for number in range(5)), seed=1)
    everybody = [queue.take([f"agent{number}" for number in range(5)]) for _ in range(5)]
    assert sorted(filter(None, everybody)) == [f"agent{number}" for number in range(5)]
    assert queue.take(["agent1"]) is None
    for agent in ("agent3", "agent0", "agent4"):
        queue.give_back(agent)
    assert queue.take(["agent0", "agent4"]) == "agent0"  # agent3 has waited longer, but this server does not know him
    assert queue.take(["agent0", "agent3", "agent4"]) == "agent3"


def test_all_agents_take_as_many_calls() -> None:
    names = [f"agent{number}" for number in range(7)]
    queue = Queue(names)
    taken: list[str] = []
    for busy in itertools.islice(itertools.cycle([1, 2, 3]), 70):
        called = [queue.take(names) for _ in range(busy)]
        assert None not in called
        taken += [agent for agent in called if agent]
        for agent in called:
            queue.give_back(agent or "")
    shares = [taken.count(name) for name in names]
    assert max(shares) - min(shares) <= 1


def register(contact: str, path: str = "") -> Message:
    lines = [
        "REGISTER sip:ubisip.lab SIP/2.0",
        "Via: SIP/2.0/UDP 127.77.2.1:5060;branch=z9hG4bKr",
        "From: <sip:agent1@ubisip.lab>;tag=1",
        "To: <sip:agent1@ubisip.lab>",
        "Call-ID: r",
        "CSeq: 1 REGISTER",
        f"Contact: {contact}",
        *([f"Path: {path}"] if path else []),
        "Content-Length: 0",
    ]
    return Message("\r\n".join([*lines, "", ""]).encode())


def test_a_servers_register_keeps_one_way_for_each_flow() -> None:
    known = Locations()
    flow = '<sip:agent1@127.77.5.1>;reg-id={};+sip.instance="<urn:uuid:1>";expires={}'
    known.take(register(flow.format(1, 60), "<sip:t1@127.77.2.1;lr;ob>"), 100.0)
    told = known.take(register(flow.format(2, 90), "<sip:t2@127.77.2.2;lr;ob>"), 100.0)
    assert told == ["Contact: <sip:agent1@127.77.5.1>;expires=60", "Contact: <sip:agent1@127.77.5.1>;expires=90"]
    assert [way.hop for way in known.of("agent1", 100.0)] == GATEWAYS[:2]
    known.take(register(flow.format(1, 60), "<sip:t3@127.77.2.3;lr;ob>"), 110.0)  # it moved to another gateway
    assert {way.hop for way in known.of("agent1", 110.0)} == set(GATEWAYS[1:])
    assert {way.hop for way in known.of("agent1", 175.0)} == {GATEWAYS[1]}
    assert known.agents(175.0) == ["agent1"] and known.agents(200.0) == []
    known.take(register(flow.format(2, 0), "<sip:t2@127.77.2.2;lr;ob>"), 175.0)
    assert known.agents(175.0) == []


async def test_agents_take_the_calls_of_a_server_and_are_free_again() -> None:
    tally, legs = Tally(), Tally()
    callee = Server("tel1", SERVER, tally, NextHops([PHONE]), behaviour=BRIEF, timers=QUICK)
    caller = Sbc("sbc-1", SBC, tally, NextHops([SERVER]), behaviour=BRIEF, timers=QUICK)
    agent = Phone("agent1", PHONE, legs, behaviour=BRIEF, timers=QUICK)
    callee.serve(Queue(["agent1"]), legs)
    async with parties(caller, callee, agent):
        agent.register([[SERVER]])
        await until(lambda: agent.sites == 1)
        for _ in range(3):
            await caller.place("+33155500001")
            await until(lambda: not callee.carried)
    assert (tally.answered, tally.ended, tally.failed, tally.lost) == (3, 3, 0, {})
    assert (agent.new, legs.answered, legs.lost) == (3, 3, {})


async def test_a_caller_who_hangs_up_ends_the_call_to_the_agent() -> None:
    tally, legs = Tally(), Tally()
    callee = Server("tel1", SERVER, tally, NextHops([PHONE]), behaviour=BRIEF, timers=QUICK)
    caller = Sbc("sbc-1", SBC, tally, NextHops([SERVER]), behaviour=Behaviour(patience=0.2), timers=QUICK)
    agent = Phone("agent1", PHONE, legs, behaviour=Behaviour(ring=(30.0, 30.0)), timers=QUICK)
    callee.serve(Queue(["agent1"]), legs)
    async with parties(caller, callee, agent):
        agent.register([[SERVER]])
        await until(lambda: agent.sites == 1)
        await caller.place("+33155500001")
        await until(lambda: not callee.carried and not agent.carried)
    assert tally.failures == {487: 1}
    assert (agent.new, legs.answered, legs.failures, legs.lost) == (1, 0, {}, {})


async def test_a_call_goes_to_another_agent_when_the_gateway_of_the_first_is_silent() -> None:
    tally, legs = Tally(), Tally()
    others = [("127.77.5.2", 5060), ("127.77.5.3", 5060)]
    callee = Server("tel1", SERVER, tally, NextHops([PHONE, *others]), behaviour=BRIEF, timers=QUICK, patience=0.2)
    caller = Sbc("sbc-1", SBC, tally, NextHops([SERVER]), behaviour=BRIEF, timers=QUICK)
    agents = [
        Phone(f"agent{number}", address, legs, behaviour=BRIEF, timers=QUICK)
        for number, address in enumerate([PHONE, *others])
    ]
    queue = Queue([])
    callee.serve(queue, legs)
    async with parties(caller, callee, *agents):
        for agent in agents:
            agent.register([[SERVER]])
        await until(lambda: all(agent.sites for agent in agents))
        agents[0].close()
        agents[1].behaviour = Behaviour(ring=(0.0, 0.0), status=486)
        for agent in agents:
            queue.give_back(agent.name)
        await caller.place("+33155500001")
        await until(lambda: not callee.carried)
    assert (tally.ended, tally.failed, tally.lost, legs.lost) == (1, 0, {}, {})
    assert [agent.new for agent in agents] == [0, 1, 1]
    assert queue.take(["agent0", "agent1", "agent2"]) == "agent0"


async def test_a_call_that_no_agent_takes_is_answered_by_the_server_itself() -> None:
    tally, legs = Tally(), Tally()
    callee = Server("tel1", SERVER, tally, NextHops([PHONE]), behaviour=BRIEF, timers=QUICK, patience=0.2)
    caller = Sbc("sbc-1", SBC, tally, NextHops([SERVER]), behaviour=BRIEF, timers=QUICK)
    agent = Phone("agent1", PHONE, legs, behaviour=Behaviour(ring=(0.0, 0.0), status=486), timers=QUICK)
    callee.serve(Queue(["agent1"]), legs)
    async with parties(caller, callee, agent):
        agent.register([[SERVER]])
        await until(lambda: agent.sites == 1)
        await caller.place("+33155500001")
        await until(lambda: not callee.carried)
    assert (tally.ended, tally.failed, tally.lost, legs.lost) == (1, 0, {}, {})
    assert (agent.new, legs.answered) == (1, 0)  # he is asked once
