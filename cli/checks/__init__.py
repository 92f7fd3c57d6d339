# SPDX-License-Identifier: Apache-2.0
"""What ``conepacs doctor`` looks at: one module for each thing that can be wrong."""
