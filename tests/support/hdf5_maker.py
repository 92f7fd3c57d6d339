# SPDX-License-Identifier: Apache-2.0
"""Writers of small NXtomo, Data Exchange and MATLAB files for tests."""

from __future__ import annotations

import h5py
import numpy as np
from scipy.io import savemat

HTC_PARAMETERS = {
    "projectName": "htc2022_test_",
    "scanner": "Laboratory scanner",
    "measurers": "Somebody Known",
    "date": "20220616",
    "dateFormat": "YYYYMMDD",
    "distanceSourceOrigin": 410.66,
    "distanceSourceDetector": 553.74,
    "distanceUnit": "mm",
    "pixelSizePost": 0.2,
    "voltage": "45",
    "voltageUnit": "kV",
    "current": "1",
    "currentUnit": "mA",
    "exposureTime": "1200",
    "exposureTimeUnit": "ms",
    "xRayFilter": "Al",
    "xRayFilterThickness": "0.5",
}


def write_nxtomo(path, frames, keys, angles, *, entry="entry0000", control=None, units="degree", extra=None):
    """One NXtomo entry; `extra` maps paths below the entry to values or (value, units)."""
    with h5py.File(path, "a") as file:
        group = file.create_group(entry)
        group.attrs["NX_class"] = "NXentry"
        group["definition"] = "NXtomo"
        detector = group.create_group("instrument/detector")
        detector["data"] = frames
        detector["image_key"] = np.asarray(keys)
        if control is not None:
            detector["image_key_control"] = np.asarray(control)
        if angles is not None:
            group["sample/rotation_angle"] = np.asarray(angles, dtype=np.float64)
            if units:
                group["sample/rotation_angle"].attrs["units"] = units
        _add(group, extra)
    return path


CONE = {
    "instrument/source/distance": (-0.2, "m"),
    "instrument/source/type": "Fixed Tube X-ray",
    "instrument/detector/distance": (50.0, "mm"),
    "instrument/detector/x_pixel_size": (55.0, "um"),
    "instrument/detector/y_pixel_size": (110.0, "um"),
}


def write_dataexchange(path, frames, *, white=None, dark=None, theta=None, units="degrees", axes=None, extra=None):
    """One Data Exchange file; `extra` maps paths to values or (value, units)."""
    with h5py.File(path, "w") as file:
        file["implements"] = "exchange:measurement"
        file["exchange/data"] = frames
        if axes:
            file["exchange/data"].attrs["axes"] = axes
        for name, values in (("data_white", white), ("data_dark", dark)):
            if values is not None:
                file[f"exchange/{name}"] = values
        if theta is not None:
            file["exchange/theta"] = np.asarray(theta, dtype=np.float64)
            if units:
                file["exchange/theta"].attrs["units"] = units
        _add(file, extra)
    return path


def _add(group, extra):
    for name, value in (extra or {}).items():
        if isinstance(value, tuple):
            group[name] = value[0]
            group[name].attrs["units"] = value[1]
        else:
            group[name] = value


def htc_struct(sinogram, angles, **changes):
    """The struct of a Helsinki file; a parameter changed to None is left out."""
    parameters = {**HTC_PARAMETERS, "angles": np.asarray(angles, float), "numDetectorsPost": float(sinogram.shape[1])}
    parameters = {name: value for name, value in (parameters | changes).items() if value is not None}
    return {"type": "2d", "sinogram": sinogram, "parameters": parameters}


def write_mat5(path, struct, name="CtDataFull"):
    """A MAT file of version 5."""
    savemat(path, {name: struct}, do_compression=True)
    return path


def write_mat73(path, struct, name="CtDataLimited"):
    """A MAT file of version 7.3: HDF5 after 512 bytes, arrays transposed, text as numbers."""
    with h5py.File(path, "w", userblock_size=512) as file:
        _add_mat73(file.create_group(name), struct)
    content = bytearray(path.read_bytes())
    content[:512] = b"MATLAB 7.3 MAT-file, Platform: TEST".ljust(124) + b"\0\2IM" + bytes(384)
    path.write_bytes(bytes(content))
    return path


def _add_mat73(group, struct):
    group.attrs["MATLAB_class"] = np.bytes_("struct")
    for name, value in struct.items():
        if isinstance(value, dict):
            _add_mat73(group.create_group(name), value)
            continue
        if isinstance(value, str):
            group[name] = np.array([[ord(letter)] for letter in value], dtype=np.uint16)
            group[name].attrs["MATLAB_class"] = np.bytes_("char")
            continue
        group[name] = np.atleast_2d(np.asarray(value, dtype=np.float64)).T
        group[name].attrs["MATLAB_class"] = np.bytes_("double")
