# SPDX-License-Identifier: Apache-2.0
"""The configuration that the lab writes is one that a gateway takes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ubisip.config import Config
from ubisip.keys import load_keys
from ubisip.lab.platform import LabPlatform, free_platform


@pytest.mark.parametrize("gateways", [1, 2, 4])
def test_the_file_describes_the_platform(tmp_path: Path, gateways: int) -> None:
    platform = LabPlatform.build(gateways, "127.77")
    config = Config.load(platform.write(tmp_path))
    for written, read in ((platform.sbcs, config.carriers), (platform.servers, config.servers)):
        assert [(part.name, part.site, part.address) for part in written] == [
            (peer.name, peer.site, (peer.endpoint.host, peer.endpoint.port)) for peer in read
        ]
    assert [(part.name, part.address) for part in platform.gateways] == [
        (node.name, (node.listen[0].host, node.listen[0].port)) for node in config.gateways
    ]
    assert {peer.centre for peer in config.carriers} == {"montsouris", "aubervilliers"}
    assert (len(config.carriers), len(config.gateways), len(config.servers)) == (4, 2 * gateways, 6)
    assert len(load_keys(tmp_path / "cluster.key")) == 1


def test_a_network_in_use_is_passed_over() -> None:
    platform = free_platform()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as squatter:
        squatter.bind(platform.servers[0].address)
        assert not platform.is_free()
        assert free_platform() != platform
