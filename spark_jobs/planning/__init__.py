# SPDX-License-Identifier: Apache-2.0
"""Everything that is decided and counted before a pixel is read: cuts, costs, memory, series."""
