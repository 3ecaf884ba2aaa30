# SPDX-License-Identifier: Apache-2.0
"""What must outlive one process: records and the audit log under ``state_dir``."""
