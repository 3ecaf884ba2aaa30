# SPDX-License-Identifier: Apache-2.0
"""A routing policy of your own: callers listed in an SQLite table go to the server written beside them.

    sqlite3 vip.db "create table vip (caller text primary key, server text not null);
                    insert into vip values ('0612345678', 'pa2-tel3')"
    ubisip key examples/cluster.key
    python examples/vip_policy.py examples/platform.toml pa2-gw1 vip.db

Everybody else is spread by the policy of the configuration file, and so is a VIP whose server is in drain or
maintenance. The hook says whom to try first, whatever its health and load; a server that is down costs a VIP one
attempt, and the policy has the next. When the database fails, or does not answer within `routing.hook_timeout`, the
call goes on without it; that is counted in `ubisip_hook_failures_total` and logged once a minute.
"""

import asyncio
import signal
import sqlite3
import sys
from contextlib import closing

import ubisip


class VipPolicy:
    """Asked about each new call, in a thread of its own kind: a plain function may wait for a disk or a database."""

    def __init__(self, database: str) -> None:
        self._database = f"file:{database}?mode=ro"

    def choose(self, call: ubisip.NewCall) -> str | None:
        with closing(sqlite3.connect(self._database, uri=True)) as database:
            row = database.execute("select server from vip where caller = ?", (call.caller,)).fetchone()
        return row[0] if row else None


async def main(path: str, node: str, database: str) -> None:
    config = ubisip.Config.load(path)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with ubisip.Gateway(config, node=node, hooks=[VipPolicy(database)]):
        print(f"{node} carries calls, VIPs first", flush=True)
        await stop.wait()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:4]))
