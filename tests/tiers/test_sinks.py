# SPDX-License-Identifier: Apache-2.0
"""The sinks on Alertmanager, an SMTP server and a web service, and what becomes of notices that cannot be delivered."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from processes import until
from tiers.daemons_common import Yard, free_port
from tiers.daemons_messages import Alertmanager, Mailbox
from tiers.fake_services import Listener, Service

from ubisip.failover.action import ActionError, Notice
from ubisip.failover.sinks.alertmanager import AlertmanagerSink
from ubisip.failover.sinks.amqp import AmqpSink
from ubisip.failover.sinks.log import LogSink
from ubisip.failover.sinks.mail import MailSink
from ubisip.failover.sinks.outbox import Letter, Outbox
from ubisip.failover.sinks.webhook import WebhookSink

NOTICE = Notice(
    key="database/dead-primary/db1",
    severity="critical",
    title="database: db1 is dead, db2 is primary",
    text="db1 does not answer.\nIts replicas agree.",
    labels={"tier": "database", "verdict": "dead-primary", "a-site": "PA2"},
    starts_at=1_800_000_000.5,
)
RESOLVED = replace(NOTICE, ends_at=1_800_000_060.0)


# Alertmanager


@pytest.fixture(scope="module")
def alertmanagers() -> Iterator[list[Alertmanager]]:
    yard = Yard()
    try:
        yield [Alertmanager(yard), Alertmanager(yard)]
    finally:
        yard.close()


async def test_every_alertmanager_has_the_alert_and_its_resolution(
    alertmanagers: list[Alertmanager], tmp_path: Path
) -> None:
    now = time.time()
    notice = replace(NOTICE, starts_at=now)
    urls = [f"http://127.0.0.1:{free_port()}", *(one.url for one in alertmanagers)]
    sink = AlertmanagerSink({"alertmanagers": urls, "labels": {"platform": "test"}}, tmp_path)
    for _ in range(2):
        await sink.send(notice)
    for one in alertmanagers:
        await until(lambda it=one: len(it.alerts()) == 1, "the alert to be there once")
        (alert,) = one.alerts()
        assert alert["labels"] == {
            "alertname": "ubisip",
            "severity": "critical",
            "key": NOTICE.key,
            "tier": "database",
            "verdict": "dead-primary",
            "a_site": "PA2",
            "platform": "test",
        }
        assert alert["annotations"] == {"summary": NOTICE.title, "description": NOTICE.text}
    await sink.send(replace(notice, ends_at=time.time()))
    for one in alertmanagers:
        await until(lambda it=one: not it.alerts(), "the alert to be resolved")


async def test_no_alertmanager_at_all_is_an_error_that_names_each(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with Service(Listener(status=400, text="bad label")) as service:
        sink = AlertmanagerSink({"alertmanagers": [url, service.url]}, tmp_path)
        with pytest.raises(ActionError) as told:
            await sink.send(NOTICE)
    assert url in str(told.value) and "answers 400: bad label" in str(told.value)
    assert told.value.retry


# Webhook


async def test_a_webhook_is_signed_over_its_time_and_body(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("shared")
    listener = Listener()
    async with Service(listener) as service:
        sink = WebhookSink({"url": f"{service.url}/hook", "secret_file": str(secret)}, tmp_path)
        await sink.send(RESOLVED)
    (heard,) = listener.heard
    said = json.loads(heard.body)
    assert (said["status"], said["key"], said["severity"]) == ("resolved", NOTICE.key, "critical")
    assert (said["starts_at"], said["ends_at"]) == ("2027-01-15T08:00:00.500Z", "2027-01-15T08:01:00.000Z")
    signed = heard.headers["X-Ubisip-Timestamp"].encode() + b"." + heard.body
    wanted = hmac.new(b"shared", signed, hashlib.sha256).hexdigest()
    assert heard.headers["X-Ubisip-Signature"] == f"sha256={wanted}"


@pytest.mark.parametrize("status", [302, 404, 500])
async def test_a_webhook_that_does_not_take_it_is_an_error(status: int, tmp_path: Path) -> None:
    async with Service(Listener(status=status)) as service:
        with pytest.raises(ActionError, match=str(status)):
            await WebhookSink({"url": service.url}, tmp_path).send(NOTICE)


async def test_a_webhook_that_hangs_is_given_up(tmp_path: Path) -> None:
    async with Service(Listener(delay=30)) as service:
        with pytest.raises(ActionError, match="no answer in time"):
            await WebhookSink({"url": service.url, "timeout": 0.2}, tmp_path).send(NOTICE)


# Mail


async def test_mails_about_one_matter_stand_in_one_thread(tmp_path: Path) -> None:
    mailbox = Mailbox()
    try:
        to = ["noc@example.test", "boss@example.test"]
        where = {"server": mailbox.address, "tls": "off", "sender": "ubisip@example.test", "recipients": to}
        sink = MailSink(where, tmp_path)
        for notice in (NOTICE, RESOLVED, replace(NOTICE, key="another", title="line one\r\nBcc: all@example.test")):
            await sink.send(notice)
    finally:
        mailbox.close()
    first, second, third = mailbox.messages
    assert mailbox.recipients == [to] * 3
    assert first["Subject"] == "[critical] database: db1 is dead, db2 is primary"
    assert second["Subject"].startswith("[critical] resolved: database")
    assert first["References"] == second["References"] != third["References"]
    assert first["Message-ID"] != second["Message-ID"]
    assert first["Auto-Submitted"] == "auto-generated"
    assert "Its replicas agree." in first.get_payload()
    assert third["Bcc"] is None, "a title cannot add header fields"


async def test_a_mail_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    where = {"server": f"127.0.0.1:{free_port()}", "tls": "off", "sender": "a@b.test", "recipients": ["c@d.test"]}
    with pytest.raises(ActionError) as told:
        await MailSink(where, tmp_path).send(NOTICE)
    assert told.value.retry


# Log


async def test_the_log_has_a_line_at_the_level_of_the_severity(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = LogSink({}, tmp_path)
    with caplog.at_level(logging.INFO, "ubisip.notice"):
        await sink.send(NOTICE)
        await sink.send(replace(NOTICE, severity="info"))
    assert [one.levelname for one in caplog.records] == ["CRITICAL", "INFO"]
    assert json.loads(caplog.records[0].getMessage())["key"] == NOTICE.key


# AMQP without a broker


async def test_without_a_broker_notices_wait_on_disk_and_outlive_us(tmp_path: Path) -> None:
    where = {"url": f"amqp://127.0.0.1:{free_port()}/"}
    sink = AmqpSink(where, tmp_path)
    await sink.send(NOTICE)
    await sink.send(RESOLVED)
    await sink.close()
    (file,) = tmp_path.iterdir()
    waiting = Outbox(file).letters
    assert [json.loads(one.body)["status"] for one in waiting] == ["firing", "resolved"]
    assert [one.routing_key for one in waiting] == ["ubisip.critical"] * 2
    again = AmqpSink(where, tmp_path)
    await again.send(NOTICE)
    await again.close()
    assert len(Outbox(file).letters) == 3


async def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    sink = AmqpSink({"url": f"amqp://127.0.0.1:{free_port()}/"}, tmp_path / "gone")
    with pytest.raises(ActionError, match="outbox"):
        await sink.send(NOTICE)


def test_an_outbox_drops_the_oldest_when_it_is_full(tmp_path: Path) -> None:
    file = tmp_path / "outbox"
    outbox = Outbox(file, limit=3)
    for number in range(5):
        outbox.add(Letter(str(number), "key", b"body"))
    assert [one.id for one in outbox.letters] == ["2", "3", "4"]
    assert [one.id for one in Outbox(file).letters] == ["2", "3", "4"]
    assert outbox.lost == 2


def test_an_outbox_survives_a_line_that_was_cut_by_a_crash(tmp_path: Path) -> None:
    file = tmp_path / "outbox"
    outbox = Outbox(file)
    for name in ("a", "b"):
        outbox.add(Letter(name, "key", b"body"))
    text = file.read_text()
    for cut in range(1, len(text.splitlines()[1]) + 1):
        file.write_text(text[:-cut])
        assert [one.id for one in Outbox(file).letters] == ["a"]
    outbox.letters.popleft()
    outbox.settle()
    assert [one.id for one in Outbox(file).letters] == ["b"]


def test_a_file_that_is_no_outbox_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "outbox"
    file.write_text("precious\n")
    with pytest.raises(ValueError, match="no outbox"):
        Outbox(file)
    assert file.read_text() == "precious\n"


@pytest.mark.parametrize(
    ("sink", "parameters"),
    [
        (AlertmanagerSink, {"alertmanagers": []}),
        (WebhookSink, {}),
        (MailSink, {"server": "mail", "sender": "a@b"}),
        (AmqpSink, {"url": "amqp://x", "routing": "y"}),
        (LogSink, {"level": "info"}),
    ],
)
def test_wrong_parameters_are_named(sink: Any, parameters: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected"):
        sink(parameters, tmp_path)
