# SPDX-License-Identifier: Apache-2.0
"""Planning for a cluster that need not be here: what a plan costs there, and a simulation of how it would run."""
