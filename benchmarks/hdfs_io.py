# SPDX-License-Identifier: Apache-2.0
"""Upload and read a scan on HDFS against the bare clients, and frames and series of a pack against local disk.

``python benchmarks/hdfs_io.py`` starts an HDFS of three DataNodes (two copies) on this machine, with the client beside
it: client and daemons share its cores.  Compared are the same bytes on the same route, one after the other in the same
run, the median of five turns.  Two turns before are not counted: the daemons' Java has then compiled what it runs, as
that of a cluster in use has.  The files of one upload are gone from the DataNodes' disks before the next begins, so
that nobody's time is spent on deleting another's:

``upload_of_bare``
    our upload (digests, compresses, spools, sends by four streams, verifies by HDFS's checksum) against the `hdfs`
    package sending the scan's pixels as they are, not compressed, a file for each bin, by four threads, without any
    verification.  Both find the pixels in memory.  MB/s are those of the scan's pixels: what a user waits for.
``read_of_bare``
    `StoredScan.read_rows` of all rows (ranged reads, unpacking, CRC of every row, turned to views) against hdfs-native
    reading those files of pixels in pieces as large as ours and dropping them.  MB/s are those of the pixels.
``upload_of_bare_files``, ``read_of_bare_files``
    the same of ours against the bare clients that move the finished chunk files, half as large: somebody else has
    compressed them before the clock starts, and nobody unpacks them.  MB/s are those of the compressed bytes.
``upload_ours_cpu_s``, ``read_ours_cpu_s``, and those of the bare clients
    processor seconds of the client's process for all of it [s]: what our layers cost, however busy the machine is.
    Reading and digesting views, compressing and checksums are in ours; the daemons' seconds are in none of them.
``frame_p95_of_local``
    one random frame of a pack through `InstanceReader.read_range` as the viewer's server has it on HDFS, with its cache
    of 256 MB, the series having been read once, against one on local disk, which lies in the system's cache.
    ``frame_first_p95_of_local``: the same without our cache, each frame fetched from a DataNode (which has the file in
    its system's cache).

The last line is one JSON object.  ``--small`` is a smoke test.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hdfs
import hdfs_native
import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ingest.chunk_reader import MAX_RANGED_READ_BYTES
from ingest.chunks import StoredScan, open_scan_chunks
from ingest.scan import EnergyBin, Scan
from ingest.upload import upload
from local_cluster.local_cluster import LocalCluster
from local_cluster.options import ClusterOptions
from pacs.pack import PackWriter, records_of
from pacs.part10 import describe_instance
from pacs.retrieve import InstanceReader
from reconstruction.geometry import ConeBeamGeometry
from storage.filesystem import open_store
from storage.publish import publish
from storage.range_cache import RangeCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from pacs.index import InstanceRecord
    from storage.filesystem import Store

STREAMS = 4
WARM_UP_TURNS = 2
BLOCK_BYTES = 128 << 20  # as HDFS has it unless told otherwise
FILE_BYTES = 64_000_000
CT = "1.2.840.10008.5.1.4.1.1.2"
PIECE_BYTES = 1 << 20
REPORT_S = 0.5  # a DataNode that tells of its copy after the file was deleted keeps it for hours
DELETE_TIMEOUT_S = 60


class NoiseReader:
    """Poisson counts behind a disc, made before anything is timed."""

    def __init__(self, n_bins: int, n_views: int, n_rows: int, n_cols: int) -> None:
        geometry = ConeBeamGeometry.circular(
            sod_mm=200.0, sdd_mm=300.0, angles_rad=np.arange(n_views) * 2 * np.pi / n_views, n_rows=n_rows,
            n_cols=n_cols, pitch_u_mm=0.11, pitch_v_mm=0.11,
        )  # fmt: skip
        self.scan = Scan(
            scan_id="hdfs-io", source_format="array", content="counts",
            bins=tuple(EnergyBin(i, "counter", 20.0 + 10 * i) for i in range(n_bins)), pixel_type="uint16",
            n_views=n_views, n_rows=n_rows, n_cols=n_cols, geometry=geometry,
        )  # fmt: skip
        rng = np.random.default_rng(1)
        profile = 2_000 * np.exp(-2.5 * np.sqrt(np.maximum(0, 1 - np.linspace(-1.2, 1.2, n_cols) ** 2)))
        self._frames = np.empty((n_bins, n_views, n_rows, n_cols), dtype="u2")
        for energy_bin in self._frames:
            for view in energy_bin:
                # As noisy as counts are; numpy's own Poisson takes ten times as long.
                view[:] = profile + np.sqrt(profile) * rng.standard_normal((n_rows, n_cols), dtype=np.float32)

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all counts."""
        return self._frames.nbytes

    @property
    def bins(self) -> list[memoryview]:
        """The counts of each bin as bytes."""
        return [memoryview(each).cast("B") for each in self._frames]

    def available_views(self) -> int:
        """All views are there."""
        return self.scan.n_views

    def read_views(self, start: int, stop: int) -> NDArray[Any]:
        """Counts of some views, (bin, view, row, col): where they lie, as the bare client takes them."""
        return self._frames[:, start:stop]

    def read_flats(self, position: int | None = None) -> None:
        """The scan has no flat frames."""

    def read_darks(self, position: int | None = None) -> None:
        """The scan has no dark frames."""

    def read_bad_pixels(self) -> None:
        """No pixel is known to be bad."""

    def close(self) -> None:
        """Nothing is open."""


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bare_upload(client: hdfs.InsecureClient, folder: str, files: list[Path]) -> None:
    """The `hdfs` package as its manual shows it: one call for each file, so many at once as we have streams."""

    def pieces(file: Path) -> Iterator[bytes]:
        with file.open("rb") as handle:
            while piece := handle.read(PIECE_BYTES):
                yield piece

    def write(file: Path) -> None:
        client.write(f"{folder}/{file.name}", data=pieces(file), overwrite=True)

    with ThreadPoolExecutor(STREAMS) as pool:
        list(pool.map(write, files))


def bare_scan_upload(client: hdfs.InsecureClient, folder: str, bins: list[memoryview]) -> None:
    """The pixels as they are, a file for each bin, side by side."""

    def write(number: int) -> None:
        pixels = bins[number]
        pieces = (bytes(pixels[start : start + PIECE_BYTES]) for start in range(0, len(pixels), PIECE_BYTES))
        client.write(f"{folder}/bin{number}.raw", data=pieces, overwrite=True)

    with ThreadPoolExecutor(STREAMS) as pool:
        list(pool.map(write, range(len(bins))))


def bare_read(client: hdfs_native.Client, paths: list[str], piece_bytes: int) -> None:
    """hdfs-native reading files in pieces."""
    for path in paths:
        reader = client.read(path)
        for start in range(0, len(reader), piece_bytes):
            reader.read_range(start, min(piece_bytes, len(reader) - start))


def our_read(stored: StoredScan) -> None:
    """Every row of every block, as a job reads them."""
    for bin_index in range(stored.scan.n_bins):
        for block in range(stored.n_view_blocks):
            stored.read_rows(bin_index, block, 0, stored.scan.n_rows)


class Turns:
    """MB/s and processor seconds of every turn by what was done."""

    def __init__(self) -> None:
        self.mb_per_s: dict[str, list[float]] = {}
        self.cpu_s: dict[str, list[float]] = {}

    def measure(self, what: str, megabytes: float, work: Callable[[], object]) -> None:
        """Do it once and note what it took."""
        cpu_s = time.process_time()
        self.mb_per_s.setdefault(what, []).append(megabytes / seconds(work))
        self.cpu_s.setdefault(what, []).append(time.process_time() - cpu_s)


def forget(native: hdfs_native.Client, folder: str, cluster_folder: Path) -> None:
    """Delete a folder of files, and wait until the DataNodes have deleted their blocks."""
    time.sleep(REPORT_S)
    native.delete(folder, True)
    deadline = time.monotonic() + DELETE_TIMEOUT_S
    while any(cluster_folder.rglob("finalized/**/blk_*")):
        if time.monotonic() >= deadline:
            raise TimeoutError(f"DataNodes below {cluster_folder} kept blocks of {folder} for {DELETE_TIMEOUT_S} s")
        time.sleep(0.2)


def measure_turn(reader: NoiseReader, files: list[Path], cluster: LocalCluster, sent_mb: float, turns: Turns) -> None:
    """One upload and one read each, bare and ours."""
    web = hdfs.InsecureClient(f"http://{cluster.web_address}")
    native = hdfs_native.Client(cluster.hdfs_url)
    ours = open_store(f"{cluster.webhdfs_url}/ours")
    pixel_mb = reader.pixel_bytes / 1e6
    piece_bytes = round(MAX_RANGED_READ_BYTES * sent_mb * 1e6 / reader.pixel_bytes)
    cluster_folder = cluster.options.folder
    turns.measure("upload_bare_files", sent_mb, lambda: bare_upload(web, "/bare", files))
    forget(native, "/bare", cluster_folder)
    turns.measure("upload_ours", pixel_mb, lambda: upload(reader, ours, file_bytes=FILE_BYTES, streams=STREAMS))
    paths = [f"/ours/scans/hdfs-io/{file.name}" for file in files]
    chunks = open_scan_chunks(open_store(f"{cluster.hdfs_url}/ours"), "hdfs-io")
    turns.measure("read_bare_files", sent_mb, lambda: bare_read(native, paths, piece_bytes))
    turns.measure("read_ours", pixel_mb, lambda: our_read(chunks))
    forget(native, "/ours", cluster_folder)
    turns.measure("upload_bare", pixel_mb, lambda: bare_scan_upload(web, "/scan", reader.bins))
    raw = [f"/scan/bin{number}.raw" for number in range(len(reader.bins))]
    turns.measure("read_bare", pixel_mb, lambda: bare_read(native, raw, MAX_RANGED_READ_BYTES))
    forget(native, "/scan", cluster_folder)


def scan_figures(cluster: LocalCluster, folder: Path, sizes: tuple[int, int, int, int], turns: int) -> dict[str, Any]:
    """Upload and read, ours and bare, turn by turn."""
    reader = NoiseReader(*sizes)
    local = open_store(folder / "local")
    report = upload(reader, local, file_bytes=FILE_BYTES)
    files = sorted((folder / "local" / "scans" / "hdfs-io").glob("*.parquet"))
    sent_mb = report.stored_bytes / 1e6
    for _ in range(WARM_UP_TURNS if turns > 1 else 0):
        measure_turn(reader, files, cluster, sent_mb, Turns())
    measured = Turns()
    for _ in range(turns):
        measure_turn(reader, files, cluster, sent_mb, measured)
    found = {f"{what}_mb_per_s": statistics.median(rates) for what, rates in measured.mb_per_s.items()}
    cpu_s = {f"{what}_cpu_s": round(statistics.median(spent), 3) for what, spent in measured.cpu_s.items()}
    packed = report.stored_bytes / report.pixel_bytes
    return {
        "upload_of_bare": found["upload_ours_mb_per_s"] / found["upload_bare_mb_per_s"],
        "read_of_bare": found["read_ours_mb_per_s"] / found["read_bare_mb_per_s"],
        "upload_of_bare_files": packed * found["upload_ours_mb_per_s"] / found["upload_bare_files_mb_per_s"],
        "read_of_bare_files": packed * found["read_ours_mb_per_s"] / found["read_bare_files_mb_per_s"],
        "pixel_mb": report.pixel_bytes / 1e6,
        "stored_mb": sent_mb,
        "n_files": len(files),
        "streams": STREAMS,
        **found,
        **cpu_s,
        "turns": measured.mb_per_s,
    }


def ct_slice(number: int, size: int) -> bytes:
    """One CT slice of noise as a Part 10 file."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CT, f"1.2.826.9.1.1.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientID = "1.2.826.9", "1.2.826.9.1", "BENCH"
    ds.Modality, ds.InstanceNumber, ds.SamplesPerPixel = "CT", number, 1
    ds.PhotometricInterpretation, ds.Rows, ds.Columns = "MONOCHROME2", size, size
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 1
    ds.PixelData = np.random.default_rng(number).integers(-1000, 3000, (size, size), dtype=np.int16).tobytes()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = CT, ds.SOPInstanceUID
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def write_pack(store: Store, n_slices: int, size: int) -> list[InstanceRecord]:
    """A pack of one series."""

    def produce(handle: Any) -> Any:
        writer = PackWriter(handle, source="benchmark")
        for number in range(1, n_slices + 1):
            content = ct_slice(number, size)
            writer.add(content, describe_instance(content))
        return writer.finish()

    manifest = publish(store, "packs/series.zip", produce, kind="write_once")
    return records_of(manifest, "packs/series.zip")


def frame_figures(cluster: LocalCluster, folder: Path, n_slices: int, size: int, n_reads: int) -> dict[str, Any]:
    """Random frames and the whole series, on HDFS and on local disk in turns."""
    stores = {"hdfs": open_store(f"{cluster.hdfs_url}/archive"), "local": open_store(folder / "archive")}
    places = {name: [each.location for each in write_pack(store, n_slices, size)] for name, store in stores.items()}
    readers = {name: InstanceReader(store) for name, store in stores.items()}
    readers["hdfs_server"] = InstanceReader(stores["hdfs"], cache=RangeCache(stores["hdfs"]))
    places["hdfs_server"] = places["hdfs"]

    def frame(name: str, number: int) -> bytes:
        place = places[name][number]
        return readers[name].read_range(place, place.pixel_offset, 2 * size * size)

    def series(name: str) -> float:
        return seconds(lambda: [readers[name].open_bytes(place) for place in places[name]])

    first_s = {name: series(name) for name in readers}
    again_s = {name: statistics.median(series(name) for _ in range(3)) for name in readers}
    draw = random.Random(1)
    times: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(n_reads):
        number = draw.randrange(n_slices)
        for name, found in times.items():
            started = time.perf_counter()
            frame(name, number)
            found.append(time.perf_counter() - started)
    ms = {
        f"frame_{name}_{label}_ms": round(1e3 * float(np.quantile(found, share)), 3)
        for name, found in times.items()
        for label, share in (("p50", 0.5), ("p95", 0.95))
    }
    return {
        "frame_p95_of_local": ms["frame_hdfs_server_p95_ms"] / ms["frame_local_p95_ms"],
        "frame_first_p95_of_local": ms["frame_hdfs_p95_ms"] / ms["frame_local_p95_ms"],
        "frame_bytes": 2 * size * size,
        "n_slices": n_slices,
        **ms,
        **{f"series_{name}_first_s": round(value, 3) for name, value in first_s.items()},
        **{f"series_{name}_s": round(value, 3) for name, value in again_s.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--views", type=int, default=60, help="of 4 bins of 1024 x 1024: 60 are 503 MB")
    parser.add_argument("--frame-size", type=int, default=1024, help="pixels along an edge of a slice")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the cluster is stopped
    sizes = (2, 8, 128, 160) if given.small else (4, given.views, 1024, 1024)
    slices, reads, size = (8, 10, 64) if given.small else (64, 200, given.frame_size)
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory(prefix="conepacs-hdfs-io-") as name:
        folder = Path(name)
        with LocalCluster.start(ClusterOptions(folder / "cluster", spark=False, block_bytes=BLOCK_BYTES)) as cluster:
            load.append(os.getloadavg()[0])
            figures = scan_figures(cluster, folder, sizes, 1 if given.small else given.turns)
            figures |= frame_figures(cluster, folder, slices, size, reads)
    load.append(os.getloadavg()[0])
    machine = {"cpu_count": os.cpu_count(), "machine": platform.machine(), "load_1min": load}
    print(json.dumps({"benchmark": "hdfs_io", "small": given.small, **figures, **machine}))


if __name__ == "__main__":
    main()
