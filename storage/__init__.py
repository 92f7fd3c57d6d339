# SPDX-License-Identifier: Apache-2.0
"""Bytes on local disk or HDFS, checksums, atomic publishing, and the SQL engine."""
