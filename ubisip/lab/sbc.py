# SPDX-License-Identifier: Apache-2.0
"""A carrier's SBC: places calls into the platform and takes those that its servers make."""

from __future__ import annotations

from ubisip.lab.party import Party


class Sbc(Party):
    """Behaves as the SBCs of carriers do: a gateway that is silent for 2 s is passed over and then left alone.

    Each repetition of an INVITE goes to the same gateway; the next gateway gets a new branch (RFC 3263 section 4.3).
    """
