# SPDX-License-Identifier: Apache-2.0
"""The action ``dns-cloudflare`` on an API that is busy, broken or changed by somebody else meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tiers.fake_services import Cloudflare, Service
from tiers.situations import Refuse, carried_out, member, outcome, situation

from ubisip.failover.actions.dns_cloudflare import CloudflareAction
from ubisip.failover.plan import Progress, StepState
from ubisip.health.machine import State

ZONE, TOKEN, NAME = "0123456789abcdef0123456789abcdef", "a-token", "www.example.test"
ONE, TWO, THREE = "192.0.2.1", "198.51.100.2", "203.0.113.3"
LOST = situation(member("web1", f"{ONE}:80", State.DOWN), member("web2", f"{TWO}:80"))
BOTH = situation(member("web1", f"{ONE}:80"), member("web2", f"{TWO}:80"))


@pytest.fixture
async def api() -> AsyncIterator[tuple[Cloudflare, str]]:
    cloudflare = Cloudflare(ZONE, TOKEN)
    cloudflare.add(NAME, ONE)
    cloudflare.add("other.example.test", "192.0.2.99")
    async with Service(cloudflare) as service:
        yield cloudflare, service.url


@pytest.fixture
def token(tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    return str(path)


def action(url: str, token: str, **more: Any) -> CloudflareAction:
    return CloudflareAction({"api": url, "zone": ZONE, "token_file": token, "names": [NAME], "serve": "first", **more})


async def test_the_record_goes_to_the_other_provider(api: tuple[Cloudflare, str], token: str) -> None:
    cloudflare, url = api
    journal = await carried_out(LOST, {"dns": action(url, token)})
    assert journal.progress is Progress.DONE, journal.reason
    assert cloudflare.values(NAME) == [TWO]
    assert cloudflare.values("other.example.test") == ["192.0.2.99"]
    assert [one["comment"] for one in cloudflare.records.values() if one["name"] == NAME] == [
        "ubisip epoch=7 key=plan-1/0"
    ]


async def test_429_and_500_are_tried_again_with_the_same_key(api: tuple[Cloudflare, str], token: str) -> None:
    cloudflare, url = api
    act = action(url, token)
    cloudflare.failures = [(429, {"Retry-After": "1"}), (500, {})]
    cloudflare.lose_answers = 1
    journal = await carried_out(LOST, {"dns": act})
    assert journal.progress is Progress.DONE, journal.reason
    assert cloudflare.values(NAME) == [TWO]
    comments = {one["comment"] for batch in cloudflare.batches for one in batch["patches"] + batch["posts"]}
    assert comments == {"ubisip epoch=7 key=plan-1/0"}


async def test_an_answer_that_was_lost_is_not_done_a_second_time(api: tuple[Cloudflare, str], token: str) -> None:
    cloudflare, url = api
    cloudflare.lose_answers = 1
    assert (await carried_out(LOST, {"dns": action(url, token)})).progress is Progress.DONE
    assert len(cloudflare.batches) == 1


@pytest.mark.parametrize("before", [[ONE], [ONE, TWO], [ONE, THREE], [THREE, "203.0.113.4", "203.0.113.5"], []])
@pytest.mark.parametrize(("it", "after"), [(LOST, [TWO]), (BOTH, sorted([ONE, TWO]))])
async def test_the_set_is_never_empty_whatever_it_was(
    api: tuple[Cloudflare, str], token: str, before: list[str], it: Any, after: list[str]
) -> None:
    cloudflare, url = api
    cloudflare.records.clear()
    for value in before:
        cloudflare.add(NAME, value)
    journal = await carried_out(it, {"dns": action(url, token, serve="all")})
    assert journal.progress is Progress.DONE
    assert cloudflare.values(NAME) == after
    assert all(cloudflare.sizes), "Cloudflare deletes first: something must be left then"


async def test_after_a_higher_epoch_a_lower_one_is_refused(api: tuple[Cloudflare, str], token: str) -> None:
    cloudflare, url = api
    await carried_out(LOST, {"dns": action(url, token)}, epoch=9)
    late = await carried_out(BOTH, {"dns": action(url, token, failback=True)}, epoch=8)
    assert late.steps[0].state is StepState.REFUSED and "epoch 9" in late.steps[0].reason
    assert cloudflare.values(NAME) == [TWO]


async def test_what_is_undone_is_what_was_there(api: tuple[Cloudflare, str], token: str) -> None:
    cloudflare, url = api
    cloudflare.add(NAME, THREE)
    journal = await carried_out(LOST, {"dns": action(url, token), "refuse": Refuse("")})
    assert outcome(journal)[0][1] is StepState.UNDONE
    assert cloudflare.values(NAME) == sorted([ONE, THREE])


async def test_a_wrong_token_is_told_at_once(api: tuple[Cloudflare, str], tmp_path: Path) -> None:
    cloudflare, url = api
    wrong = tmp_path / "wrong"
    wrong.write_text("another-token")
    journal = await carried_out(LOST, {"dns": action(url, str(wrong))})
    assert journal.progress is not Progress.DONE
    assert "Invalid access token" in journal.reason
    assert cloudflare.values(NAME) == [ONE]


def test_a_token_that_cannot_be_read_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="expected a file that holds the secret"):
        action("http://127.0.0.1:1", "/nowhere/token")
