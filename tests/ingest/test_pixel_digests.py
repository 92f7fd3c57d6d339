# SPDX-License-Identifier: Apache-2.0
"""Digests of pixels depend on their values alone, and name a scan whichever algorithm took them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from ingest.pixel_digests import ALGORITHMS, begin_digest, pixel_digest


def test_the_digests_are_those_of_their_algorithms():
    # Test vectors of the BLAKE3 repository and of FIPS 180.
    assert begin_digest("blake3").hexdigest() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert begin_digest("sha256").hexdigest() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    frames = np.arange(24, dtype="<u2").reshape(2, 3, 4)
    assert pixel_digest(frames, "sha256") == hashlib.sha256(frames.tobytes()).hexdigest()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_order_in_memory_and_pieces_do_not_matter(algorithm):
    frames = np.random.default_rng(1).integers(0, 2**16, (2, 5, 6), dtype="u2")
    expected = pixel_digest([frames], algorithm)
    assert pixel_digest(frames.astype(">u2"), algorithm) == expected
    assert pixel_digest([np.asfortranarray(frames)], algorithm) == expected
    assert pixel_digest(frames[:, ::-1], algorithm) != expected
