# SPDX-License-Identifier: Apache-2.0
"""The audit log: one JSON object a line for each change an operator made, only ever appended to."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


class AuditLog:
    """Appends who did what, when, and how it ended, to *path*; gateways that share a directory may share the file."""

    def __init__(self, path: Path, node: str) -> None:
        self.path = path
        self._node = node

    def write(self, who: str, what: str, result: str, **details: Any) -> None:
        """Add one line: *what* was asked by *who* (a peer's address, a token's or a signal's name), and its *result*.

        :raises OSError: the line cannot be written.
        """
        moment = round(time.time(), 3)
        entry = {"time": moment, "node": self._node, "who": who, "what": what, "result": result, **details}
        line = json.dumps(entry, ensure_ascii=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            os.write(file, line.encode("utf-8", "surrogateescape"))  # one write: lines of several gateways do not mix
        finally:
            os.close(file)
