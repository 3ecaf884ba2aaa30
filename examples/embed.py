# SPDX-License-Identifier: Apache-2.0
"""A gateway inside your own program: the core carries the calls while your code watches them.

ubisip key examples/cluster.key
python examples/embed.py examples/platform.toml pa2-gw1
"""

import asyncio
import signal
import sys

import ubisip


def told(event: ubisip.GatewayEvent) -> str:
    """An event as a line; empty: not worth one."""
    match event:
        case ubisip.Answered(call_id=call, destination=server, delay=delay):
            return f"{call} answered by {server} after {delay * 1000:.0f} ms"
        case ubisip.Failed(call_id=call, status=status):
            return f"{call} failed with {status}"
        case ubisip.FailedOver(call_id=call, destination=server):
            return f"{call} goes to {server} instead"
        case ubisip.HealthChanged(destination=server, after=state, reason=reason):
            return f"{server} is {state} ({reason})"
    return ""


async def main(path: str, node: str) -> None:
    config = ubisip.Config.load(path)
    async with ubisip.Gateway(config, node=node) as gateway:
        events = gateway.events()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, events.close)
        print(f"{node} carries calls on {', '.join(map(str, gateway.listeners))}", flush=True)
        async for event in events:
            if line := told(event):
                print(line, flush=True)
    print("drained and stopped")  # leaving the block let the calls in set-up finish


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:3]))
