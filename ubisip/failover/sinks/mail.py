# SPDX-License-Identifier: Apache-2.0
"""Sink ``mail``: a message by SMTP; repetitions and the resolution stand in one thread with the first."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from pathlib import Path
from typing import Annotated, Any, Literal

import aiosmtplib

from ubisip.address import split_address
from ubisip.failover.action import ActionError, Notice
from ubisip.failover.sinks.plain import instant
from ubisip.health.asking import short
from ubisip.health.trust import client_context
from ubisip.parameters import read_parameters, read_secret
from ubisip.schema import AT_LEAST_ONE, REQUIRED, Between

PORTS = {"off": 25, "starttls": 587, "on": 465}


@dataclass(frozen=True, slots=True)
class MailParameters:
    """Who sends to whom, through which server."""

    server: Annotated[str, REQUIRED] = ""
    """``host`` or ``host:port``."""
    sender: Annotated[str, REQUIRED] = ""
    """The address in From."""
    recipients: Annotated[tuple[str, ...], AT_LEAST_ONE, REQUIRED] = ()
    """The addresses in To."""
    tls: Literal["off", "starttls", "on"] = "starttls"
    """How the connection is secured."""
    user: str = ""
    """User of the mail server; empty: it wants none."""
    password_file: str = ""
    """The file with their password."""
    ca_file: str = ""
    """PEM file of the authorities that are trusted; empty: those of the system."""
    timeout: Annotated[float, Between(0.1, 120)] = 15.0
    """Seconds that it may take."""


class MailSink:
    """Sends each notice as a message."""

    def __init__(self, parameters: Mapping[str, Any], state_dir: Path) -> None:
        """:raises ValueError: a parameter is wrong, or the password cannot be read."""
        self._parameters = read_parameters(MailParameters, parameters)
        self._server = split_address(self._parameters.server, PORTS[self._parameters.tls])
        self._password = read_secret(self._parameters.password_file)
        self._context = client_context(self._parameters.ca_file, True)

    async def send(self, notice: Notice) -> None:
        host, port = self._server
        it = self._parameters
        try:
            await aiosmtplib.send(
                self._message(notice), hostname=host, port=port, use_tls=it.tls == "on", start_tls=it.tls == "starttls",
                tls_context=self._context, username=it.user or None, password=self._password or None,
                timeout=it.timeout,
            )  # fmt: skip
        except (aiosmtplib.SMTPException, OSError) as error:
            raise ActionError(f"{it.server}: {short(error) or 'no answer in time'}", retry=True) from error

    def _message(self, notice: Notice) -> EmailMessage:
        message = EmailMessage()
        done = "" if notice.ends_at is None else "resolved: "
        message["Subject"] = short(f"[{notice.severity}] {done}{notice.title}")
        message["From"] = self._parameters.sender
        message["To"] = ", ".join(self._parameters.recipients)
        message["Date"] = format_datetime(datetime.now(UTC))
        message["Message-ID"] = make_msgid("ubisip", self._parameters.sender.rpartition("@")[2] or socket.gethostname())
        message["References"] = _thread(notice.key)
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's holiday notice comes back
        message.set_content(_body(notice))
        return message

    async def close(self) -> None:
        """It keeps no connections."""


def _thread(key: str) -> str:
    """The identity that all messages about one matter refer to."""
    return f"<{hashlib.sha256(key.encode()).hexdigest()[:32]}@ubisip.invalid>"


def _body(notice: Notice) -> str:
    labels = "".join(f"{name}: {text}\n" for name, text in notice.labels.items())
    end = "" if notice.ends_at is None else f"resolved: {instant(notice.ends_at)}\n"
    return f"{notice.text}\n\n{labels}since: {instant(notice.starts_at)}\n{end}key: {notice.key}\n"
