# SPDX-License-Identifier: Apache-2.0
"""RTK on files: its own reader and writer of the geometry XML, and its FDK of an exported set; for a child process.

RTK's axes are (xr, yr, zr) = (y, z, x) of ours, so its images indexed (zr, yr, xr) are ours transposed by (1, 2, 0).
"""

from __future__ import annotations

from typing import Any

import numpy as np

#: Our (x, y, z) in RTK's order.
FROM_OURS = [1, 2, 0]


def read_xml(path: str) -> dict[str, list[Any]]:
    """What RTK's reader finds in a geometry file; angles in rad, matrices (view, 3, 4)."""
    geometry = _read(path)
    getters = {
        "gantry_rad": "GetGantryAngles", "out_of_plane_rad": "GetOutOfPlaneAngles", "in_plane_rad": "GetInPlaneAngles",
        "source_to_isocenter_mm": "GetSourceToIsocenterDistances",
        "source_to_detector_mm": "GetSourceToDetectorDistances", "source_offset_x_mm": "GetSourceOffsetsX",
        "source_offset_y_mm": "GetSourceOffsetsY", "projection_offset_x_mm": "GetProjectionOffsetsX",
        "projection_offset_y_mm": "GetProjectionOffsetsY",
    }  # fmt: skip
    found: dict[str, list[Any]] = {name: list(getattr(geometry, getter)()) for name, getter in getters.items()}
    n_views = len(found["gantry_rad"])
    found["sources"] = [[geometry.GetSourcePosition(view)[i] for i in range(3)] for view in range(n_views)]
    found["matrices"] = [
        [[geometry.GetMatrix(view)(row, col) for col in range(4)] for row in range(3)] for view in range(n_views)
    ]
    return found


def write_xml(path: str, poses: Any) -> None:
    """A geometry file by RTK's own hand: our poses (view, 12) go in by its AddProjection(source, detector, ...)."""
    import itk
    from itk import RTK as rtk

    geometry = rtk.ThreeDCircularProjectionGeometry.New()
    for pose in np.asarray(poses):
        parts = [part[FROM_OURS] for part in pose.reshape(4, 3)]
        points = [itk.Point[itk.D, 3]([float(x) for x in part]) for part in parts[:2]]
        vectors = [itk.Vector[itk.D, 3]([float(x) for x in part / np.linalg.norm(part)]) for part in parts[2:]]
        if not geometry.AddProjection(*points, *vectors):
            raise ValueError("RTK does not take this projection")
    writer = rtk.ThreeDCircularProjectionGeometryXMLFileWriter.New()
    writer.SetFilename(path)
    writer.SetObject(geometry)
    writer.WriteFile()


def write_images(array: Any, spacing: list[float], origin: list[float], paths: list[str]) -> None:
    """An image (view, row, col) in the formats that the names say, by ITK's writers."""
    import itk

    image = itk.image_from_array(np.asarray(array))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    for path in paths:
        itk.imwrite(image, path)


def fdk(folder: str, shape: tuple[int, ...], pitch: tuple[float, ...], origin: tuple[float, ...]) -> Any:
    """The volume (z, y, x) that RTK's FDK makes of projections.mha and geometry.xml in a folder."""
    import itk
    from itk import RTK as rtk

    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(2)
    kind = itk.Image[itk.F, 3]
    volume = rtk.ConstantImageSource[kind].New()
    volume.SetOrigin([float(origin[i]) for i in FROM_OURS])
    volume.SetSpacing([float(pitch[2 - i]) for i in FROM_OURS])
    volume.SetSize([int(shape[2 - i]) for i in FROM_OURS])
    volume.SetConstant(0.0)
    volume.Update()
    made = rtk.FDKConeBeamReconstructionFilter[kind].New()
    made.SetInput(0, volume.GetOutput())
    made.SetInput(1, itk.imread(f"{folder}/projections.mha", itk.F))
    made.SetGeometry(_read(f"{folder}/geometry.xml"))
    made.GetRampFilter().SetTruncationCorrection(0.0)
    made.GetRampFilter().SetHannCutFrequency(0.0)
    made.Update()
    return np.ascontiguousarray(np.transpose(itk.array_from_image(made.GetOutput()), (1, 2, 0)))


def _read(path: str) -> Any:
    """RTK's geometry of a file."""
    from itk import RTK as rtk

    reader = rtk.ThreeDCircularProjectionGeometryXMLFileReader.New()
    reader.SetFilename(path)
    reader.GenerateOutputInformation()
    return reader.GetOutputObject()
