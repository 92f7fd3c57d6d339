# SPDX-License-Identifier: Apache-2.0
"""The `conepacs` command: one thin module for each verb."""
