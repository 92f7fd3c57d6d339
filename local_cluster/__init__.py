# SPDX-License-Identifier: Apache-2.0
"""A real HDFS and Spark on this one machine, each daemon a process of its own."""
