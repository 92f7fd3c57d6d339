# SPDX-License-Identifier: Apache-2.0
"""DICOMweb and the pages of a small viewer, over HTTP."""
