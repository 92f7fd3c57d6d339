# SPDX-License-Identifier: Apache-2.0
"""Small samples of the merlin, nxtomo, dataexchange and htc formats; each maker returns a `ReaderSample`."""

from __future__ import annotations

import numpy as np

from tests.support.hdf5_maker import CONE, htc_struct, write_dataexchange, write_mat5, write_mat73, write_nxtomo
from tests.support.mib_maker import mib_frame
from tests.support.reader_samples import ReaderSample


def _counts(*shape, seed=1, high=4096, dtype=np.uint16):
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def merlin_quad_raw(folder):
    """Raw readout of a quad, two files whose names sort the wrong way."""
    frames = _counts(4, 8, 512)
    for name, part in (("scan10", (2, 3)), ("scan9", (0, 1))):
        content = [
            mib_frame(frames[i], sequence=i + 1, pixel_format="R64", layout="2x2", n_chips=4, depth=12) for i in part
        ]
        (folder / f"{name}.mib").write_bytes(b"".join(content))
    return ReaderSample(folder, "merlin", frames[None], truncate=folder / "scan10.mib")


def merlin_counters(folder):
    """Two counters as difference bins, with gaps between two chips."""
    high = _counts(3, 6, 516, high=1000)
    low = high + _counts(3, 6, 516, high=1000, seed=2)
    content = b""
    for view in range(3):
        for counter, images in enumerate((low, high)):
            content += mib_frame(
                images[view], sequence=2 * view + counter + 1, counter=counter, layout="2x1G", n_chips=2
            )
    source = folder / "scan.mib"
    source.write_bytes(content)
    bad = np.zeros((6, 516), dtype=bool)
    bad[:, 256:260] = True
    frames = np.stack([low - high, high])
    return ReaderSample(source, "merlin", frames, bad_pixels=bad, truncate=source, settings={"bins": "difference"})


def nxtomo_cone(folder):
    """Views, flats and darks in one data set, in the order in which they were taken."""
    keys = [2, 2, 1, 0, 0, -1, 0, 1, 0]
    frames = _counts(9, 5, 7)
    mask = np.zeros((5, 7), dtype=np.uint32)
    mask[0, 3] = 4
    source = write_nxtomo(
        folder / "scan.nx",
        frames,
        keys,
        np.arange(9.0),
        extra={**CONE, "instrument/detector/pixel_mask": mask},
    )
    sets = [frames[None, np.flatnonzero(np.equal(keys, key)), ::-1] for key in (0, 1, 2)]
    return ReaderSample(
        source, "nxtomo", sets[0], flats=sets[1], darks=sets[2], bad_pixels=mask[::-1] != 0, truncate=source
    )


def dataexchange_parallel(folder):
    """A parallel beam with float counts."""
    frames, white, dark = (_counts(n, 4, 6, seed=n).astype(np.float32) for n in (5, 3, 2))
    source = write_dataexchange(folder / "scan.h5", frames, white=white, dark=dark, theta=np.arange(5.0))
    views, flats, darks = (values[None, :, ::-1] for values in (frames, white, dark))
    return ReaderSample(source, "dataexchange", views, flats=flats, darks=darks, truncate=source)


def htc_mat5(folder):
    """Line integrals in a compressed MAT file of version 5."""
    sinogram = np.random.default_rng(3).normal(size=(5, 80))
    source = write_mat5(folder / "scan.mat", htc_struct(sinogram, np.arange(5.0)))
    return ReaderSample(source, "htc", sinogram.astype(np.float32)[None, :, None, :], truncate=source)


def htc_mat73(folder):
    """Line integrals in a MAT file of version 7.3."""
    sinogram = np.random.default_rng(3).normal(size=(5, 80))
    source = write_mat73(folder / "scan.mat", htc_struct(sinogram, np.arange(5.0)))
    return ReaderSample(source, "htc", sinogram.astype(np.float32)[None, :, None, :], truncate=source)


SAMPLES = {
    "merlin_quad_raw": merlin_quad_raw,
    "merlin_counters": merlin_counters,
    "nxtomo_cone": nxtomo_cone,
    "dataexchange_parallel": dataexchange_parallel,
    "htc_mat5": htc_mat5,
    "htc_mat73": htc_mat73,
}
