# SPDX-License-Identifier: Apache-2.0
"""DICOM encoding, packs, the index, and the DIMSE services."""
