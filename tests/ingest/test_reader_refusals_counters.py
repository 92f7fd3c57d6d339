# SPDX-License-Identifier: Apache-2.0
"""Refusals of the readers of Merlin, Pixet, NXtomo and Data Exchange files: what was got, and what to do instead."""

import numpy as np
import pytest

from ingest.errors import FrameFormatError, ScanDescriptionError
from ingest.readers import SourceOptions, open_source
from ingest.readers.mib_frames import frame_layout, parse_header
from ingest.readers.pixet_files import PixetFile
from tests.support.hdf5_maker import CONE, write_dataexchange, write_nxtomo
from tests.support.imager_maker import write_pixet
from tests.support.mib_maker import mib_frame, mib_header
from tests.support.reader_samples_plain import counts

FRAMES = counts(3, 5, 7) % 30000


def opened(source, source_format, **settings):
    return open_source(source, source_format=source_format, options=SourceOptions(settings=settings))


def write_mib(path, *, n_frames=2, counters=(0,)):
    frames = [
        mib_frame(counts(6, 8), sequence=number + 1, counter=counter)
        for number in range(n_frames)
        for counter in counters
    ]
    path.write_bytes(b"".join(frames))
    return path


def test_merlin_without_a_whole_frame_is_refused(tmp_path):
    with pytest.raises(FrameFormatError, match=r"no Merlin frame found, expected \.mib files with frames"):
        opened(tmp_path, "merlin")
    (tmp_path / "scan.toml").write_text("[scan]\nn_views = 4\n")
    (tmp_path / "a.mib").write_bytes(mib_frame(counts(6, 8), sequence=1)[:100])
    with pytest.raises(FrameFormatError, match="no Merlin frame found"):
        opened(tmp_path, "merlin")


def test_merlin_fields_of_other_counters_are_refused(tmp_path):
    write_mib(tmp_path / "a.mib", counters=(0, 1))
    write_mib(tmp_path / "flat.mib", n_frames=1)
    (tmp_path / "scan.toml").write_text('[files]\nflats = "flat.mib"\n')
    with pytest.raises(FrameFormatError, match=r"flat\.mib: the flats have the counters 0, expected 0, 1 as in"):
        opened(tmp_path, "merlin")


def test_a_merlin_frame_that_was_cut_after_it_was_opened_is_refused(tmp_path):
    path = write_mib(tmp_path / "a.mib")
    reader = opened(path, "merlin")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(FrameFormatError, match="the frame is cut short: got 86 bytes of pixels, expected 96"):
        reader.read_views(1, 2)
    reader.close()


def test_a_merlin_frame_without_pixels_is_refused():
    header = mib_header(sequence=1, n_cols=0, n_rows=4)
    with pytest.raises(FrameFormatError, match="given as 4 rows x 0 columns, expected at least one of each"):
        frame_layout(parse_header(header, "a.mib at byte 0"), "a.mib at byte 0")


@pytest.mark.parametrize(
    ("how", "cut", "said"),
    [
        ({"kind": "i16", "binary": True}, 3, r"frame 2 at bytes 140 to 210 is truncated: got 67 bytes, expected 70"),
        ({"kind": "i16"}, 8, r"frame 2 .* is truncated or malformed: got \d+ numbers, expected 35"),
        (
            {"kind": "i16", "layout": "[X,C]", "binary": True},
            1,
            r"is truncated: \d+ bytes are no whole pixels of 6 each",
        ),
        ({"kind": "i16", "layout": "[X,Y,C]"}, 8, r"is truncated: \d+ numbers are no whole pixels of 3 each"),
    ],
)
def test_pixet_frames_that_were_cut_after_they_were_opened_are_refused(tmp_path, how, cut, said):
    path = write_pixet(tmp_path / "scan.pmf", FRAMES, **how)
    frames = PixetFile(path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(FrameFormatError, match=said):
        frames.read(2)


KEYS, ANGLES = [1, 0, 0], [0.0, 0.0, 10.0]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (
            {"instrument/source/distance": ([-0.2, -0.3], "m")},
            "distance holds 2 lengths that differ, expected one length",
        ),
        ({"instrument/detector/x_pixel_size": "wide"}, "x_pixel_size is not an array of numbers"),
        ({"instrument/detector/x_pixel_size": (-55.0, "um")}, "x_pixel_size is -0.055 mm, expected a positive length"),
        ({"instrument/detector/distance": (1e-20, "m")}, r"scan\.nx: the detector must lie behind the axis"),
        (
            {"instrument/detector/x_rotation_axis_pixel_position": [1.0, 2.0]},
            "x_rotation_axis_pixel_position holds 2 numbers, expected one",
        ),
    ],
)
def test_nxtomo_lengths_that_are_none_are_refused(tmp_path, extra, said):
    path = write_nxtomo(tmp_path / "scan.nx", FRAMES, KEYS, ANGLES, extra=CONE | extra)
    with pytest.raises(FrameFormatError, match=said):
        opened(path, "nxtomo")


def test_an_empty_length_is_refused(tmp_path):
    extra = {"measurement/instrument/detector/actual_pixel_size_x": (np.zeros(0), "um")}
    path = write_dataexchange(tmp_path / "scan.h5", FRAMES, theta=[0, 1, 2], extra=extra)
    with pytest.raises(FrameFormatError, match="actual_pixel_size_x holds no number, expected one length"):
        opened(path, "dataexchange")


def test_several_views_are_not_repeated(tmp_path):
    path = write_dataexchange(tmp_path / "scan.h5", FRAMES, theta=[0, 1, 2])
    with pytest.raises(ScanDescriptionError, match="but the dataexchange reader finds 3: leave repeat_views out"):
        opened(path, "dataexchange", repeat_views=8)


def test_an_entry_is_chosen_as_the_refusal_says(tmp_path):
    path = write_nxtomo(tmp_path / "scan.nx", FRAMES, KEYS, ANGLES)
    write_nxtomo(path, FRAMES, KEYS, ANGLES, entry="entry0001")
    with pytest.raises(FrameFormatError, match=r"choose one by the setting 'entry' \(--set entry=entry0000\)"):
        opened(path, "nxtomo")
    assert opened(path, "nxtomo", entry="entry0000").scan.n_views == 2
