# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ, Alertmanager and an SMTP server as daemons of the tests."""

from __future__ import annotations

import json
import ssl
import subprocess
import urllib.request
from contextlib import suppress
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from processes import Child
from tiers.daemons_common import Yard, free_port, listens, require

RABBIT_HOME = Path("/usr/lib/rabbitmq/lib")


class Rabbitmq:
    """A RabbitMQ of its own, with its own port mapper."""

    def __init__(self, yard: Yard, tls: tuple[str, str] | None = None) -> None:
        """*tls*: files of certificate and key, of the port ``secure``."""
        require("rabbitmq-server", "epmd")
        self.port, self.secure = free_port(), free_port()
        self._ports = [self.port] if tls is None else [self.port, self.secure]
        self.address = f"127.0.0.1:{self.port}"
        self._yard = yard
        self._scripts = next(RABBIT_HOME.glob("rabbitmq_server-*/sbin"))
        mapper, distribution = free_port(), free_port()
        folder = yard.folder(f"rabbitmq-{self.port}")
        text = "vm_memory_high_watermark.absolute = 2GB\ndisk_free_limit.absolute = 1MB\n"
        if tls is not None:
            text += f"listeners.ssl.1 = 127.0.0.1:{self.secure}\nssl_options.certfile = {tls[0]}\n"
            text += f"ssl_options.keyfile = {tls[1]}\n"
        config = yard.write("rabbitmq.conf", text)
        self._environment = {
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"ubisip{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }
        command = yard.command("epmd", "-port", str(mapper), "-address", "127.0.0.1")
        yard.until(yard.run("epmd", command), lambda: listens(mapper))
        self.child = self.start()

    def start(self) -> Child:
        """Start it, or start it again after a kill."""
        self.child = self._yard.run("rabbitmq", self._command("rabbitmq-server"), self._environment)
        return self._yard.until(self.child, lambda: all(map(listens, self._ports)))

    def _command(self, script: str, *arguments: str) -> list[str]:
        return [*self._yard.command("sh")[:-1], "sh", str(self._scripts / script), *arguments]

    def control(self, *words: str) -> None:
        """``rabbitmqctl``."""
        environment = [f"{key}={value}" for key, value in self._environment.items()]
        subprocess.run(["env", *environment, *self._command("rabbitmqctl", *words)], check=True, capture_output=True)


class Alertmanager:
    """A Prometheus Alertmanager that tells nobody."""

    CONFIG = "route:\n  receiver: nobody\nreceivers:\n  - name: nobody\n"

    def __init__(self, yard: Yard) -> None:
        require("prometheus-alertmanager")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        config = yard.write(f"alertmanager-{port}.yml", self.CONFIG)
        command = yard.command(
            "prometheus-alertmanager", f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}",
            f"--storage.path={yard.folder(f'alertmanager-{port}')}", "--cluster.listen-address=",
        )  # fmt: skip
        self.child = yard.run("alertmanager", command)
        yard.until(self.child, self._is_ready)

    def _is_ready(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that it has."""
        with urllib.request.urlopen(f"{self.url}/api/v2/alerts", timeout=5) as answer:
            found: list[dict[str, Any]] = json.load(answer)
            return found


class Mailbox:
    """An SMTP server that keeps what it gets."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        """*tls*: it takes nothing before STARTTLS."""
        self.messages: list[Message] = []
        self.recipients: list[list[str]] = []
        self._controller = Controller(
            self, hostname="127.0.0.1", port=free_port(), tls_context=tls, require_starttls=tls is not None
        )
        self._controller.start()
        self.address = f"127.0.0.1:{self._controller.port}"

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:
        self.recipients.append(envelope.rcpt_tos)
        self.messages.append(message_from_bytes(envelope.content))
        return "250 OK"

    def close(self) -> None:
        self._controller.stop()
