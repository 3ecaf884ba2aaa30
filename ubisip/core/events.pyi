# SPDX-License-Identifier: Apache-2.0
from typing import NamedTuple

class StreamMessage(NamedTuple):
    """A message to send over a connection: number *stream*, or (0) any that leads to *address*."""

    data: bytes
    address: tuple[str, int]
    listener: int
    stream: int
