# SPDX-License-Identifier: Apache-2.0
"""Probe ``redis``: role, link and lag, over a connection of its own each time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ubisip.address import split_address
from ubisip.health.asking import PROTOCOL, ask, failed, of_error, passed, short, unclear, warned
from ubisip.health.probe import Finding, Target
from ubisip.parameters import read_parameters
from ubisip.schema import Between

REDIS_PORT = 6379
LAG = "lag"
_ROLES = {"master": "primary", "slave": "replica"}


@dataclass(frozen=True, slots=True)
class RedisParameters:
    """When to warn."""

    max_lag: Annotated[float, Between(0, 86_400)] = 10.0
    """Seconds without a word from its primary; a replica that is further behind is a warning."""
    min_replicas: Annotated[int, Between(0, 100)] = 0
    """Replicas that a primary must have; fewer are a warning."""
    tls: bool = False
    """Whether the connection is encrypted; the certificate is verified then."""
    ca_file: str = ""
    """PEM file of the authorities that are trusted; empty: those of the system."""


class RedisProbe:
    """INFO from ``host:port``, as the tier's user if it has one, with its password if it has one."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = read_parameters(RedisParameters, parameters)

    async def check(self, target: Target, timeout: float) -> Finding:
        return await ask(self._check(target), timeout)

    async def _check(self, target: Target) -> Finding:
        host, port = split_address(target.address, REDIS_PORT)
        client = redis.asyncio.Redis(
            host=host, port=port, username=target.user or None, password=target.password or None,
            ssl=self._parameters.tls, ssl_ca_certs=self._parameters.ca_file or None, client_name="ubisip",
            single_connection_client=True, retry=Retry(NoBackoff(), 0),
        )  # fmt: skip
        try:
            info = await client.info()
        except redis.exceptions.RedisError as error:
            return of_redis_error(error)
        finally:
            await client.aclose()
        return self._finding(_facts(info))

    def _finding(self, facts: Mapping[str, Any]) -> Finding:
        if facts["loading"]:
            return failed("redis.loading", facts)
        if facts["role"] == "replica" and facts["link"] != "up":
            return warned("replication", facts, "the link to its primary is down")
        if facts["lag"] > self._parameters.max_lag:
            return warned(LAG, facts)
        if facts["role"] == "primary" and facts["replicas"] < self._parameters.min_replicas:
            return warned("redis.replicas", facts, f"it has {facts['replicas']} replicas")
        if not facts["saved"]:
            return warned("redis.save", facts, "its last save to disk failed")
        return passed(facts)

    async def close(self) -> None:
        """It keeps no connections."""


def _facts(info: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "role": _ROLES.get(info.get("role", ""), "unknown"),
        "link": info.get("master_link_status", ""),
        "lag": max(0, info.get("master_last_io_seconds_ago", 0)),
        "position": info.get("slave_repl_offset", info.get("master_repl_offset", 0)),
        "replicas": info.get("connected_slaves", 0),
        "loading": bool(info.get("loading", 0)),
        "saved": info.get("rdb_last_bgsave_status", "ok") == "ok" and info.get("aof_last_write_status", "ok") == "ok",
        "version": str(info.get("redis_version", "")),
    }


def of_redis_error(error: redis.exceptions.RedisError) -> Finding:
    """The finding that an error of the driver stands for."""
    match error:
        case redis.exceptions.AuthenticationError() | redis.exceptions.NoPermissionError():
            return unclear("redis.auth", f"Redis does not let us look: {short(error)}")
        case redis.exceptions.BusyLoadingError():
            return failed("redis.loading")
        case redis.exceptions.ConnectionError() | redis.exceptions.TimeoutError():
            return of_error(error.__cause__ or error.__context__ or ConnectionResetError())
        case redis.exceptions.ResponseError():
            return failed("redis.error", problem=short(error))
    return failed(PROTOCOL, problem=short(error))
