# SPDX-License-Identifier: Apache-2.0
"""The compiled core: bytes in, bytes out (DESIGN section 3)."""
