# SPDX-License-Identifier: Apache-2.0
"""RTK as a peer, in a process of its own."""

from __future__ import annotations

import importlib.util
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import rtk_peer
from tests.support.peers import require_peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class RtkProcess:
    """Calls `benchmarks.rtk_peer` in one child process.

    ITK brings an HDF5 of its own: beside h5py it crashes the interpreter when that ends.
    """

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """A function of a module that imports ITK only when it is called."""
        return self._pool.submit(function, *arguments).result()

    def shepp_logan(self, *arguments: Any) -> Any:
        """RTK's projections and voxels of its phantom."""
        return self._pool.submit(rtk_peer.shepp_logan, *arguments).result()

    def fdk(self, *arguments: Any, **settings: Any) -> Any:
        """RTK's FDK, timed."""
        return self._pool.submit(rtk_peer.fdk, *arguments, **settings).result()


@pytest.fixture(scope="session")
def rtk() -> Iterator[RtkProcess]:
    """The one RTK of this test session."""
    require_peer("itk-rtk", importlib.util.find_spec("itk") is not None, "pip install itk-rtk")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield RtkProcess(pool)
