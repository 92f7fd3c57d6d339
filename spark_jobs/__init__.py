# SPDX-License-Identifier: Apache-2.0
"""Spark drivers and workers: the plan of a reconstruction, its tasks, its report."""
