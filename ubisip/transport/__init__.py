# SPDX-License-Identifier: Apache-2.0
"""Streams into the core; datagrams are the core's own."""
