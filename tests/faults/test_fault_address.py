# SPDX-License-Identifier: Apache-2.0
"""Two gateways with one key behind one address: the address moves from one machine to the other amid calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lives import live
from namespaces import Ethernet, available
from phones import exchange
from processes import SIP_PORT, Address, Gateway, Place, until

pytestmark = pytest.mark.skipif(not available(), reason="needs the right to make network namespaces")

OWN = {"a": "198.18.0.201", "b": "198.18.0.202"}
"""The addresses of the two machines, beside the one that they share."""


class Lan(Place):
    """The machines ``a`` and ``b`` with a gateway each, and one network for everybody."""

    def __init__(self, directory: Path, network: Ethernet) -> None:
        super().__init__(directory, "198.18.0")
        self.ethernet = network
        for machine, address in OWN.items():
            network.join(machine)
            network.give(address, machine)
        network.give(self.gateway()[0], "a")
        for number in (1, 2, 3):
            network.give(self.server(number)[0])
        network.give(self.carrier()[0])

    def carrier(self, number: int = 1) -> Address:
        return f"{self.network}.{10 + number}", SIP_PORT

    def gateway(self, number: int = 1) -> Address:
        return f"{self.network}.20", SIP_PORT

    def server(self, number: int = 1) -> Address:
        return f"{self.network}.{30 + number}", SIP_PORT

    def admin(self, number: int = 1) -> str:
        return "127.0.0.1:8080"

    def machine(self, name: str) -> Gateway:
        """The gateway of a machine, not yet started: both run the same node of the same file."""
        return self.new_gateway(prefix=self.ethernet.prefix(name))

    def counted(self, machine: str, gateway: Gateway, counter: str) -> float:
        with self.ethernet.inside(machine):
            return gateway.counter("ubisip_core_total", counter=counter)


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    network = Ethernet()
    place = Lan(tmp_path, network)
    yield place
    place.close()
    network.close()


@pytest.mark.parametrize("first_one", ["is cut off", "stays"])
@pytest.mark.parametrize("caller", ["sbc1", "tel2"])
async def test_no_call_notices_that_its_address_moved(
    lan: Lan, record: dict[str, float], caller: str, first_one: str
) -> None:
    """The gateway that had the address is cut off from the network, or stays and does not know that it lost it."""
    lan.write(servers=3, carriers=1)
    first, second = lan.machine("a"), lan.machine("b")
    address = lan.gateway()[0]
    with exchange(lan.gateway()) as phones:
        with lan.ethernet.inside():
            phones.phone("sbc1", lan.carrier())
            for number in (1, 2, 3):
                phones.phone(f"tel{number}", lan.server(number))
        for gateway in (first, second):
            gateway.launch()
            await until(lambda gateway=gateway: gateway.ready, f"{gateway.name} to be ready")  # type: ignore[misc]
        phone = next(phone for phone in phones.phones if phone.name == caller)

        moved = 0.0

        async def goes() -> None:
            lan.ethernet.take(address, "a")
            if first_one == "is cut off":
                lan.ethernet.unplug("a")

        async def returns() -> None:
            nonlocal moved
            moved = time.monotonic()
            lan.ethernet.give(address, "b")
            lan.ethernet.forget()

        faults = await live(lambda: phones.call(phone), goes, returns)
        record |= {"calls": phones.tally.placed, "lost": faults.total(), "set up twice": len(phones.twice())}
        record["relayed without transaction"] = lan.counted("b", second, "stateless_responses")
        await until(lambda: time.monotonic() > moved + 2.5, "the first gateway to give up what it waits for")
        assert not faults
        assert not phones.twice()
        assert lan.counted("b", second, "stateless_responses") > 0
