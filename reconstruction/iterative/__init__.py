# SPDX-License-Identifier: Apache-2.0
"""Iterative reconstruction for few views or low dose: SIRT, OS-SART and total variation."""
