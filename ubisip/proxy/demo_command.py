# SPDX-License-Identifier: Apache-2.0
"""``python -m ubisip.proxy --demo`` becomes this program: a gateway alone need not load what only the demo uses."""

from __future__ import annotations

import sys

from ubisip.proxy.demo import run_demo
from ubisip.proxy.logs import configure_logging
from ubisip.proxy.options import parser


def main() -> int:
    """Run the demonstration as the command line wants it; returns the exit code."""
    options = parser().parse_args()
    configure_logging(options.log_format, options.log_level, "demo", sys.stderr)
    return run_demo(options.duration, options.rate, options.seed, options.json)


if __name__ == "__main__":
    sys.exit(main())
