# SPDX-License-Identifier: Apache-2.0
"""Numbers only: geometry, corrections, filtering and back-projection of cone-beam projections."""
