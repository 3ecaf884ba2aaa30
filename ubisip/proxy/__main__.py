# SPDX-License-Identifier: Apache-2.0
"""``python -m ubisip.proxy``: one gateway as a service, or the whole platform as a demonstration."""

from __future__ import annotations

import os
import sys

from ubisip.proxy.logs import configure_logging
from ubisip.proxy.options import parser
from ubisip.proxy.service import run

DEMO = "ubisip.proxy.demo_command"


def main() -> int:
    """Do what the command line asks for; returns the exit code."""
    it = parser()
    options = it.parse_args()
    if options.demo == bool(options.config or options.node):
        it.error("give either --config FILE and --node NAME, or --demo")
    if options.demo:
        os.execv(sys.executable, [sys.executable, "-m", DEMO, *sys.argv[1:]])
    if not (options.config and options.node):
        it.error("--config FILE and --node NAME go together")
    configure_logging(options.log_format, options.log_level, options.node, sys.stderr)
    return run(options.config, options.node)


if __name__ == "__main__":
    sys.exit(main())
