# SPDX-License-Identifier: Apache-2.0
"""Quick looks before a job: a slice or a coarse volume from some of the views, and sweeps of one parameter."""
