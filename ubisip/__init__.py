# SPDX-License-Identifier: Apache-2.0
"""ubisip: a high-availability SIP proxy library."""
