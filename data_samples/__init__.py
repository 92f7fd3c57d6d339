# SPDX-License-Identifier: Apache-2.0
"""A small seeded photon-counting scan and its maker; no patient data."""
