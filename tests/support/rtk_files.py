# SPDX-License-Identifier: Apache-2.0
"""RTK as a second reader of imagers' files; runs in the child process of `tests/peers/conftest.py`."""

from __future__ import annotations

import numpy as np


def frame(path: str) -> np.ndarray:
    """One file's pixels as RTK reads them, and its spacing [mm]: (row, col), (u, v)."""
    import itk
    from itk import RTK as rtk

    suffix = path.rpartition(".")[2].capitalize()
    reader = itk.ImageFileReader[itk.Image[itk.F, 2]].New()
    reader.SetFileName(path)
    reader.SetImageIO(getattr(rtk, f"{suffix}ImageIO").New())
    reader.Update()
    image = reader.GetOutput()
    return itk.array_from_image(image).copy(), tuple(image.GetSpacing())


def line_integrals(paths: list[str]) -> np.ndarray:
    """Files through RTK's reader of projections, which knows how each vendor stores attenuation."""
    import itk
    from itk import RTK as rtk

    reader = rtk.ProjectionsReader[itk.Image[itk.F, 3]].New()
    reader.SetFileNames(paths)
    reader.Update()
    return itk.array_from_image(reader.GetOutput()).copy()


def matrices(kind: str, xml: str, paths: list[str]) -> list[np.ndarray]:
    """RTK's projection matrices (3, 4) of a scan, from its axes [mm] to the panel [mm]."""
    import itk
    from itk import RTK as rtk

    if kind == "elekta":
        reader = rtk.ElektaXVI5GeometryXMLFileReader.New()
        reader.SetFilename(xml)
        reader.GenerateOutputInformation()
        geometry = reader.GetGeometry()
    else:
        reader = {"xim": rtk.VarianProBeamGeometryReader, "obi": rtk.VarianObiGeometryReader}[kind].New()
        reader.SetXMLFileName(xml)
        reader.SetProjectionsFileNames(paths)
        reader.UpdateOutputData()
        geometry = reader.GetGeometry()
    views = range(len(geometry.GetGantryAngles()))
    return [np.array(itk.array_from_matrix(geometry.GetMatrix(view))) for view in views]
