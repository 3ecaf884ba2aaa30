# SPDX-License-Identifier: Apache-2.0
"""Sink ``log``: a line in our own log, at the level of the severity."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ubisip.failover.action import Notice
from ubisip.failover.sinks.plain import json_notice
from ubisip.parameters import read_parameters

log = logging.getLogger("ubisip.notice")
LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.CRITICAL}


@dataclass(frozen=True, slots=True)
class LogParameters:
    """It has none."""


class LogSink:
    """Writes the notice as JSON to the logger ``ubisip.notice``."""

    def __init__(self, parameters: Mapping[str, Any], state_dir: Path) -> None:
        read_parameters(LogParameters, parameters)

    async def send(self, notice: Notice) -> None:
        log.log(LEVELS.get(notice.severity, logging.WARNING), "%s", json_notice(notice).decode())

    async def close(self) -> None:
        """The log is not ours to close."""
