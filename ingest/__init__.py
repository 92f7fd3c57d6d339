# SPDX-License-Identifier: Apache-2.0
"""Detector and vendor files in, scans and chunks in the store out."""
