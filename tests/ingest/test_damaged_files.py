# SPDX-License-Identifier: Apache-2.0
"""Files of scanners and imagers with bytes changed at random: read, or refused by an error of this package."""

from __future__ import annotations

import random

import numpy as np
import pytest

from ingest.errors import IngestError
from ingest.readers import SourceOptions, open_source
from tests.support.reader_samples_imagers import SAMPLES

TRIALS = 6


@pytest.mark.parametrize("name", SAMPLES)
def test_damage_never_crashes_a_reader(name, tmp_path):
    rng = random.Random(name)
    for trial in range(TRIALS):
        folder = tmp_path / str(trial)
        folder.mkdir()
        sample = SAMPLES[name](folder)
        path = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
        content = bytearray(path.read_bytes())
        if trial % 3 == 0:
            del content[rng.randrange(len(content)) :]
        else:
            for _ in range(rng.choice([1, 3, 10])):
                content[rng.randrange(min(len(content), 1500))] = rng.randrange(256)
        path.write_bytes(bytes(content))
        options = SourceOptions(scan_id="damaged")
        try:
            with np.errstate(all="ignore"):
                reader = open_source(sample.source, source_format=sample.source_format, options=options)
                reader.read_views(0, reader.scan.n_views)
                reader.close()
        except IngestError as error:
            assert "\n" not in str(error)  # noqa: PT017  (most damage is refused, some is not seen)
