# SPDX-License-Identifier: Apache-2.0
"""What a gateway shows to people and to other programs: HTTP, metrics, the command line."""
