# SPDX-License-Identifier: Apache-2.0
"""Where an image comes from, in its header: run parameters, software, derivation, energy bin."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pacs.errors import EncodingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pacs.description import SeriesSpec

#: Private block (PS3.5 7.8): group, creator, and the offsets of its elements; docs/conformance.md lists them.
PRIVATE_GROUP = 0x0021
PRIVATE_CREATOR = "CONEPACS 1.0"
BIN_INDEX, BIN_KIND, BIN_LOW_KEV, BIN_HIGH_KEV, BIN_COUNT = 0x01, 0x02, 0x03, 0x04, 0x05
SCAN_ID, SCAN_SHA256, PARAMETERS_SHA256, RUN_ID = 0x06, 0x07, 0x08, 0x09
KERNEL_VERSION, PARAMETERS_JSON, PRODUCT, PREVIEW_FACTOR, CLIPPED_VOXELS = 0x0A, 0x0B, 0x0C, 0x0D, 0x0E

#: Longest Derivation Description (ST).
_ST_LENGTH = 1024


def canonical_json(value: Mapping[str, Any]) -> str:
    """Return JSON text that is the same for equal mappings: keys sorted, no spaces, ASCII, finite numbers.

    Raises
    ------
    EncodingError
        If a value is not JSON, or not a finite number.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise EncodingError(f"the run's parameters cannot be written as JSON: {error}") from error


def parameters_sha256(parameters: Mapping[str, Any]) -> str:
    """Return the sha256 of a run's parameters, hexadecimal, over their canonical JSON."""
    return hashlib.sha256(canonical_json(parameters).encode("ascii")).hexdigest()


def private_address(offset: int) -> tuple[int, int]:
    """Return the tag of an element of the private block, which always lies at (0021,10xx) in our instances."""
    return PRIVATE_GROUP, 0x1000 + offset


def add_provenance(ds: Dataset, spec: SeriesSpec) -> None:
    """Add derivation, contributing equipment and the private block to a header (all but the clipped voxels)."""
    ds.DerivationDescription = derivation_text(spec)
    ds.ContributingEquipmentSequence = Sequence([_reconstruction_software(spec)])
    block = ds.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    energy_bin = spec.energy_bin
    block.add_new(BIN_INDEX, "US", energy_bin.index)
    block.add_new(BIN_KIND, "CS", energy_bin.kind.upper())
    if energy_bin.low_kev is not None:
        block.add_new(BIN_LOW_KEV, "FD", float(energy_bin.low_kev))
    if energy_bin.high_kev is not None:
        block.add_new(BIN_HIGH_KEV, "FD", float(energy_bin.high_kev))
    block.add_new(BIN_COUNT, "US", len(spec.bins))
    block.add_new(SCAN_ID, "LO", spec.study.scan_id)
    block.add_new(SCAN_SHA256, "LO", spec.key.scan_sha256)
    block.add_new(PARAMETERS_SHA256, "LO", spec.key.parameters_sha256)
    block.add_new(RUN_ID, "LO", spec.key.run_id)
    block.add_new(KERNEL_VERSION, "LO", spec.kernel_version)
    block.add_new(PARAMETERS_JSON, "UT", canonical_json(spec.parameters))
    block.add_new(PRODUCT, "CS", spec.product.upper())
    block.add_new(PREVIEW_FACTOR, "US", spec.preview_factor)


def derivation_text(spec: SeriesSpec) -> str:
    """Say in words how the voxels came about: method, energies, quantity, averaging."""
    energy_bin = spec.energy_bin
    energies = {
        "counter": f"counter above {energy_bin.low_kev} keV (everything above its threshold)",
        "difference": f"difference of two counters, {energy_bin.low_kev} to {energy_bin.high_kev} keV",
        "integrating": "all energies together (no threshold)",
    }[energy_bin.kind]
    sentences = [
        _method_text(spec),
        energies,
        "Hounsfield units by a stored calibration" if spec.calibrated_hu else "linear attenuation coefficient in 1/mm",
    ]
    if spec.product == "preview":
        sentences.append(f"preview: averages of {spec.preview_factor}^3 voxels")
    return "; ".join(sentences)[:_ST_LENGTH]


def _method_text(spec: SeriesSpec) -> str:
    """Name the method: FDK with its filter, or an iterative one."""
    if spec.iterative_method is None:
        return f"Cone-beam filtered back-projection (FDK), filter {spec.convolution_kernel or 'not named'}"
    return f"Iterative cone-beam reconstruction, method {spec.iterative_method}"


def _reconstruction_software(spec: SeriesSpec) -> Dataset:
    """Contributing Equipment item (PS3.3 C.12.1): the software that made the image from the projections."""
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "109102", "DCM"
    purpose.CodeMeaning = "Processing Equipment"
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = Sequence([purpose])
    item.Manufacturer = item.ManufacturerModelName = "ConePACS"
    item.SoftwareVersions = spec.equipment.software_version
    item.ContributionDateTime = spec.content_date + spec.content_time
    item.ContributionDescription = "Reconstruction from X-ray projections"
    return item
