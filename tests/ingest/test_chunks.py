# SPDX-License-Identifier: Apache-2.0
"""What is read from the chunk store equals what was written, whatever the sizes; anything else is named."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zlib

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.chunk_manifest import file_from_json, file_to_json
from ingest.chunk_writer import CHUNK_SCHEMA_VERSION as NEWEST
from ingest.chunk_writer import deflated, rows_crc32
from ingest.chunks import (
    ChunkFile,
    ChunkFileWriter,
    PixelDigests,
    ScanManifest,
    frames_layout,
    list_scans,
    open_scan_chunks,
    projection_layout,
)
from ingest.errors import ChunkCorruptError, IngestError, UnknownScanError
from ingest.manifest import canonical_json
from storage.errors import StoreUnavailableError
from tests.support.fake_reader import FakeReader, random_reader, small_scan
from tests.support.fake_store import FakeStore


def write_file(frames, layout, scan_id, bin_index, blocks, schema_version=NEWEST) -> tuple[bytes, list[int]]:
    handle = io.BytesIO()
    writer = ChunkFileWriter(
        handle, scan_id=scan_id, layout=layout, bin_index=bin_index, blocks=blocks, schema_version=schema_version
    )
    for block in range(*blocks):
        writer.write_block(block, frames[bin_index, slice(*layout.view_blocks[block])])
    group_bytes = writer.close()
    return handle.getvalue(), group_bytes


def stored(reader, *, memory_bytes=10**9, file_bytes=256_000_000, schema_version=NEWEST) -> FakeStore:
    """A store that holds the reader's scan."""
    store, scan = FakeStore(), reader.scan
    layouts = {"projection": projection_layout(scan, memory_bytes=memory_bytes, file_bytes=file_bytes)}
    arrays = {"projection": reader.frames}
    for kind, frames in (("flat", reader.flats), ("dark", reader.darks)):
        if frames is not None:
            layouts[kind], arrays[kind] = frames_layout(kind, scan, frames.shape[1]), frames
    if reader.bad_pixels is not None:
        layouts["bad_pixels"] = frames_layout("bad_pixels", scan, 1)
        arrays["bad_pixels"] = reader.bad_pixels.astype(np.uint8)[None, None]
    files, sizes = [], np.zeros((scan.n_bins, len(layouts["projection"].row_groups)), dtype=int)
    for kind, layout in layouts.items():
        for bin_index in range(layout.n_bins):
            for blocks in layout.file_blocks:
                content, group_bytes = write_file(arrays[kind], layout, scan.scan_id, bin_index, blocks, schema_version)
                name = layout.file_name(bin_index, blocks)
                store.files[f"scans/{scan.scan_id}/{name}"] = content
                digest = hashlib.sha256(content).hexdigest()
                files.append(ChunkFile(name, kind, bin_index, blocks, len(content), digest))
                if kind == "projection":
                    sizes[bin_index] += group_bytes
    groups = tuple(tuple(int(x) for x in row) for row in sizes)
    digests = PixelDigests(("0" * 64,) * scan.n_views)
    manifest = ScanManifest(scan, digests, layouts, tuple(files), groups, schema_version)
    store.files[f"scans/{scan.scan_id}/manifest.json"] = manifest.to_bytes()
    return store


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_what_is_read_is_what_was_written(data):
    n_rows = data.draw(st.sampled_from([1, 2, 7, 33, 70]), label="rows")
    reader = random_reader(
        data.draw(st.integers(0, 9)),
        n_views=data.draw(st.integers(1, 8), label="views"),
        n_bins=data.draw(st.integers(1, 2), label="bins"),
        n_rows=n_rows,
        n_cols=data.draw(st.integers(1, 9), label="columns"),
        pixel_type=data.draw(st.sampled_from(["uint8", "uint16", "uint32", "float32"])),
    )
    store = stored(
        reader, memory_bytes=data.draw(st.integers(1, 5000)), file_bytes=data.draw(st.sampled_from([1, 2000, 10**9]))
    )
    scan = open_scan_chunks(store, "stone-1")
    assert scan.scan == reader.scan
    start = data.draw(st.integers(0, n_rows - 1), label="first row")
    stop = data.draw(st.integers(start + 1, n_rows), label="end row")
    for bin_index in range(reader.scan.n_bins):
        for block, (first, end) in enumerate(scan.view_blocks):
            expected = reader.frames[bin_index, first:end, start:stop]
            rows = scan.read_rows(bin_index, block, start, stop)
            assert rows.dtype == reader.frames.dtype
            np.testing.assert_array_equal(rows, expected)
            out = np.zeros_like(expected)
            assert scan.read_rows(bin_index, block, start, stop, out=out) is out
            np.testing.assert_array_equal(out, expected)
            by_row = scan.read_rows_by_row(bin_index, block, start, stop)
            np.testing.assert_array_equal(by_row, expected.transpose(1, 0, 2))
        np.testing.assert_array_equal(scan.read_flats(bin_index, start, stop), reader.flats[bin_index, :, start:stop])
        np.testing.assert_array_equal(scan.read_darks(bin_index), reader.darks[bin_index])
    np.testing.assert_array_equal(scan.read_bad_pixels(start, stop), reader.bad_pixels[start:stop])
    view = data.draw(st.integers(0, reader.scan.n_views - 1))
    np.testing.assert_array_equal(scan.read_view(0, view), reader.frames[0, view])


def test_a_scan_without_fields_gives_none():
    scan = open_scan_chunks(stored(random_reader(fields=False)), "stone-1")
    assert scan.read_flats(0) is None
    assert scan.read_darks(0) is None
    assert scan.read_bad_pixels() is None


def test_the_files_are_plain_parquet_that_other_programs_read():
    reader = random_reader(n_views=8, n_rows=64, n_cols=5, fields=False)
    store = stored(reader, memory_bytes=64 * 5 * 2 * 2 * 2, file_bytes=1)
    name = "scans/stone-1/projections-bin01-pos00-views00002-00003.parquet"
    parquet = pq.ParquetFile(io.BytesIO(store.files[name]))
    table = parquet.read()
    assert table.column("detector_row").to_pylist() == list(range(64))
    assert set(table.column("view_block").to_pylist()) == {1}
    low, high = (np.frombuffer(table.column(f"byte{i}")[10].as_py(), dtype="u1").reshape(2, 5) for i in range(2))
    np.testing.assert_array_equal(low + 256 * high.astype(int), reader.frames[1, 2:4, 10])
    group = parquet.metadata.row_group(0)
    assert group.num_rows == 64 // 32
    for index in (5, 6):
        pixels = group.column(index)
        assert (pixels.path_in_schema, pixels.is_stats_set) == (f"byte{index - 5}", False)
        assert not pixels.has_dictionary_page
    assert json.loads(parquet.metadata.metadata[b"conepacs.chunks"])["dtype"] == "<u2"


def codecs(content: bytes) -> dict[str, str]:
    """Codec of each column of pixels."""
    group = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(0)
    columns = [group.column(i) for i in range(5, group.num_columns)]
    return {column.path_in_schema: column.compression for column in columns}


@pytest.mark.parametrize(("schema_version", "of_few_values"), [(2, "ZSTD"), (3, "ZSTD"), (4, "GZIP")])
def test_bytes_are_compressed_where_it_pays(schema_version, of_few_values):
    rng = np.random.default_rng(1)
    scan = small_scan(n_views=6, n_bins=3, n_rows=64, n_cols=64, pixel_type="uint16")
    frames = np.empty((3, 6, 64, 64), dtype="u2")
    frames[0] = rng.poisson(900, size=frames[0].shape)  # low bytes are noise
    frames[1] = rng.integers(0, 65536, size=frames[1].shape)  # all bytes are
    frames[2] = rng.poisson(40, size=frames[2].shape)  # low bytes have many values, but not all
    store = stored(FakeReader(scan, frames), schema_version=schema_version)
    found = [codecs(store.files[f"scans/stone-1/projections-bin0{i}-pos00-views00000-00005.parquet"]) for i in range(3)]
    assert found == [
        {"byte0": "UNCOMPRESSED", "byte1": of_few_values},
        {"byte0": "UNCOMPRESSED", "byte1": "UNCOMPRESSED"},
        {"byte0": "ZSTD", "byte1": of_few_values},
    ]
    opened = open_scan_chunks(store, "stone-1")
    for index in range(3):
        np.testing.assert_array_equal(opened.read_rows(index, 0, 0, 64), frames[index])
        content = store.files[f"scans/stone-1/projections-bin0{index}-pos00-views00000-00005.parquet"]
        cells = pq.read_table(io.BytesIO(content)).column("byte0").to_pylist()  # by an unpacker of others
        assert b"".join(cells) == frames[index].astype("u1").transpose(1, 0, 2).tobytes()


@pytest.mark.parametrize("n_bytes", [0, 1, 3, 16, 17, 19, 40, 5000, 200_000])
def test_deflate_of_any_length_is_read_by_zlib(n_bytes):
    content = np.random.default_rng(1).integers(0, 3, size=n_bytes, dtype="u1").tobytes()
    packed = deflated(memoryview(content))
    assert zlib.decompress(packed, wbits=31) == content
    assert len(packed) < n_bytes / 2 + 40


def test_deflate_gives_the_same_bytes_wherever_memory_lies():
    pages = [memoryview(bytes([15, 0, 0, 0]) + bytes(n)) for n in (15, 40, 5000)]
    found, n_threads = set(), 300  # that all live at once, each with a stack of its own
    all_live = threading.Barrier(n_threads)

    def pack():
        all_live.wait()
        found.update(deflated(page) for page in pages)

    threads = [threading.Thread(target=pack) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(pages)


def test_a_cell_whose_length_reads_like_deflate_is_read():
    n_cols = int.from_bytes(bytes.fromhex("1f8b0800"), "little")
    reader = random_reader(n_views=1, n_bins=1, n_rows=1, n_cols=n_cols, fields=False)
    reader.frames[:] = np.random.default_rng(1).integers(0, 65536, size=reader.frames.shape)
    store = stored(reader)
    name = "scans/stone-1/projections-bin00-pos00-views00000-00000.parquet"
    assert codecs(store.files[name])["byte0"] == "UNCOMPRESSED"
    np.testing.assert_array_equal(open_scan_chunks(store, "stone-1").read_rows(0, 0, 0, 1), reader.frames[0])


def test_a_dark_edge_does_not_decide_how_all_is_stored():
    frames = np.zeros((1, 4, 64, 64), dtype="u2")
    frames[:, :, 4:] = np.random.default_rng(1).integers(0, 65536, size=(1, 4, 60, 64))
    store = stored(FakeReader(small_scan(n_views=4, n_bins=1, n_rows=64, n_cols=64, pixel_type="uint16"), frames))
    content = store.files["scans/stone-1/projections-bin00-pos00-views00000-00003.parquet"]
    assert codecs(content) == {"byte0": "UNCOMPRESSED", "byte1": "UNCOMPRESSED"}


@pytest.mark.parametrize("pixel_type", ["uint8", "uint16", "uint32", "float32"])
@pytest.mark.parametrize("schema_version", [1, 2, 3, 4])
def test_every_type_is_read_in_either_version(schema_version, pixel_type):
    rng = np.random.default_rng(4)
    scan = small_scan(n_views=5, n_bins=1, n_rows=40, n_cols=7, pixel_type=pixel_type)
    frames = (rng.integers(0, 2**32, size=(1, 5, 40, 7), dtype="u4") if pixel_type == "uint32" else
              rng.gamma(2, 20, size=(1, 5, 40, 7))).astype(pixel_type)  # fmt: skip
    store = stored(FakeReader(scan, frames), schema_version=schema_version)
    opened = open_scan_chunks(store, "stone-1")
    np.testing.assert_array_equal(opened.read_rows(0, 0, 3, 39), frames[0, :, 3:39])
    np.testing.assert_array_equal(opened.read_rows_by_row(0, 0, 3, 39), frames[0, :, 3:39].transpose(1, 0, 2))
    np.testing.assert_array_equal(opened.read_view(0, 3), frames[0, 3])
    content = store.files["scans/stone-1/projections-bin00-pos00-views00000-00004.parquet"]
    names = ["pixels"] if schema_version == 1 else [f"byte{i}" for i in range(frames.itemsize)]
    assert list(codecs(content)) == names


def test_the_same_pixels_give_the_same_bytes():
    assert stored(random_reader(3)).files == stored(random_reader(3)).files


def test_identity_depends_on_the_scan_and_its_pixels_not_on_the_layout():
    big = open_scan_chunks(stored(random_reader()), "stone-1").manifest
    small = open_scan_chunks(stored(random_reader(), memory_bytes=1, file_bytes=1), "stone-1").manifest
    assert big.sha256 == small.sha256
    assert big.files != small.files
    other = ScanManifest(big.scan, PixelDigests(("1" * 64,)), big.layouts, big.files, big.group_bytes)
    assert other.sha256 != big.sha256


def test_ranged_reads_are_what_the_plan_was_told():
    reader = random_reader(n_views=12, n_bins=2, n_rows=320, n_cols=16, fields=False)
    store = stored(reader, memory_bytes=3 * 2 * 320 * 16 * 2, file_bytes=6 * 320 * 16 * 2)
    scan = open_scan_chunks(store, "stone-1")
    assert scan.n_view_blocks == 4
    cost = scan.ranged_reads_for(95, 131)
    assert cost.pixel_bytes == 2 * 12 * 50 * 16 * 2  # rows 90 to 140: whole row groups of 10
    for bin_index in range(2):
        for block in range(4):
            scan.read_rows(bin_index, block, 95, 131)
    footers = {path for path, _, _ in store.reads}
    assert len(store.reads) - len(footers) == cost.n_reads
    seen = set()
    read_bytes = sum(
        length for path, _, length in store.reads if path in seen or seen.add(path)
    )  # without the footers, the first read of each file
    # The keys of the first row group are skipped, so a little less than all of the groups.
    assert 0.8 * cost.stored_bytes < read_bytes <= cost.stored_bytes
    one = scan.ranged_reads_for(95, 131, bin_index=0)
    assert one.n_reads * 2 == cost.n_reads
    assert one.pixel_bytes * 2 == cost.pixel_bytes


def test_large_bands_are_read_window_by_window(monkeypatch):
    monkeypatch.setattr("ingest.chunk_reader.MAX_RANGED_READ_BYTES", 2000)
    reader = random_reader(n_views=5, n_bins=1, n_rows=200, n_cols=16, fields=False)  # one view block
    store = stored(reader)
    scan = open_scan_chunks(store, "stone-1")
    np.testing.assert_array_equal(scan.read_rows(0, 0, 3, 197), reader.frames[0, :, 3:197])
    np.testing.assert_array_equal(scan.read_rows_by_row(0, 0, 3, 197), reader.frames[0, :, 3:197].transpose(1, 0, 2))
    cost = scan.ranged_reads_for(3, 197)
    store.reads.clear()
    scan.read_rows(0, 0, 3, 197)
    assert len(store.reads) == cost.n_reads > 1


def test_a_row_that_is_wrong_in_one_of_several_windows_is_named(monkeypatch):
    monkeypatch.setattr("ingest.chunk_reader.MAX_RANGED_READ_BYTES", 2000)
    frames = np.random.default_rng(1).integers(0, 65536, size=(2, 7, 200, 16), dtype="u2")
    reader = FakeReader(small_scan(n_views=7, n_rows=200, n_cols=16), frames)
    store = stored(reader)
    good = store.files[PATH]
    cell = reader.frames[1, :, 150].astype("u1").tobytes()
    where = good.index(cell)
    store.files[PATH] = good[:where] + bytes([good[where] ^ 1]) + good[where + 1 :]
    scan = open_scan_chunks(store, "stone-1")
    with pytest.raises(ChunkCorruptError, match=f"file {NAME}: detector row 150 does not have the checksum"):
        scan.read_rows(1, 0, 0, 200)
    np.testing.assert_array_equal(scan.read_rows(1, 0, 0, 144), reader.frames[1, :, :144])


def test_several_threads_may_read_at_once():
    reader = random_reader(n_views=8, n_rows=64, fields=False)
    scan = open_scan_chunks(stored(reader, memory_bytes=2000, file_bytes=1), "stone-1")
    wrong = []

    def read_all() -> None:
        for block, (first, end) in enumerate(scan.view_blocks):
            if not np.array_equal(scan.read_rows(1, block, 0, 64), reader.frames[1, first:end]):
                wrong.append(block)

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


NAME = "projections-bin01-pos00-views00000-00006.parquet"  # 7 views, one block
PATH = f"scans/stone-1/{NAME}"


@pytest.mark.parametrize("schema_version", [1, 2, 4])
def test_a_flipped_byte_is_named_wherever_it_is(schema_version):
    reader = random_reader(n_views=7, n_rows=40, n_cols=3, fields=False)
    reader.frames[1] //= 16  # few values in the high bytes
    store = stored(reader, schema_version=schema_version)
    good = store.files[PATH]
    named = 0
    for position in range(0, len(good), 211):
        store.files[PATH] = good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1 :]
        scan = open_scan_chunks(store, "stone-1")
        message, rows = "", None
        try:
            rows = scan.read_rows(1, 0, 0, 40)
        except ChunkCorruptError as error:
            message = str(error)
        if rows is None:
            named += 1
            assert f"scan stone-1, bin 1, view block 0, file {NAME}" in message
        else:  # a byte that matters to nobody, such as a key or a statistic
            np.testing.assert_array_equal(rows, reader.frames[1])
    assert named > 10


def test_a_checksum_that_does_not_hold_names_the_row(monkeypatch):
    reader = random_reader(n_views=7, n_rows=40, n_cols=3, fields=False)
    wrong = reader.frames[1, :, 17].astype("u1").ravel()

    def with_one_wrong(planes):
        return rows_crc32(planes) ^ (planes[0] == wrong).all(axis=1)

    with monkeypatch.context() as patch:
        patch.setattr("ingest.chunk_writer.rows_crc32", with_one_wrong)
        store = stored(reader)
    scan = open_scan_chunks(store, "stone-1")
    with pytest.raises(ChunkCorruptError, match=f"bin 1, view block 0, file {NAME}: detector row 17 does not have"):
        scan.read_rows(1, 0, 0, 40)
    np.testing.assert_array_equal(scan.read_rows(1, 0, 18, 40), reader.frames[1, :, 18:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-20], "has .* B, expected at least"),
        (lambda content: content[:-4] + b"XXXX", "does not end as a Parquet file"),
        (lambda content: b"", "has 0 B"),
        (lambda _: None, "is missing from fake://store"),
    ],
)
def test_a_broken_or_missing_file_is_named(change, message):
    store = stored(random_reader(n_views=7, fields=False))
    content = change(store.files.pop(PATH))
    if content is not None:
        store.files[PATH] = content
    with pytest.raises(ChunkCorruptError, match=f"scan stone-1, bin 1, view block 0, file {NAME}.*{message}"):
        open_scan_chunks(store, "stone-1").read_rows(1, 0, 0, 1)


def test_another_bins_file_is_refused():
    store = stored(random_reader(n_views=7, fields=False))
    other = store.files[PATH.replace("bin01", "bin00")]
    store.files[PATH] = other + b""
    size = len(other)
    manifest = store.files["scans/stone-1/manifest.json"]
    values = json.loads(manifest)
    next(f for f in values["files"] if f["name"] == NAME)["bytes"] = size
    store.files["scans/stone-1/manifest.json"] = json.dumps(values).encode()
    with pytest.raises(ChunkCorruptError, match="the file has bin 0, the manifest 1"):
        open_scan_chunks(store, "stone-1").read_rows(1, 0, 0, 1)


def test_a_store_that_does_not_answer_is_not_called_corrupt():
    store = stored(random_reader(fields=False))
    scan = open_scan_chunks(store, "stone-1")

    def refuse(path, offset, length):
        raise StoreUnavailableError("connection refused")

    store.read_range = refuse
    with pytest.raises(StoreUnavailableError, match="connection refused"):
        scan.read_rows(0, 0, 0, 1)


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [((2, 0, 0, 1), "bin 2"), ((0, 9, 0, 1), "block 9"), ((0, 0, 3, 3), "rows 3:3"), ((0, 0, 0, 99), "rows 0:99")],
)
def test_indices_outside_of_the_scan_are_refused(arguments, asked):
    scan = open_scan_chunks(stored(random_reader(fields=False)), "stone-1")
    with pytest.raises(IngestError, match=f"asked for.*{asked}"):
        scan.read_rows(*arguments)
    with pytest.raises(IngestError, match="need an array"):
        scan.read_rows(0, 0, 0, 2, out=np.zeros((1, 1, 1), dtype=np.uint16))
    with pytest.raises(IngestError, match="scan stone-1 has 8 views, asked for view 8"):
        scan.read_view(0, 8)


def test_unknown_scans_name_their_neighbours():
    store = FakeStore()
    with pytest.raises(UnknownScanError, match="no scan 'stone-1' in fake://store, which holds no scan yet"):
        open_scan_chunks(store, "stone-1")
    store = stored(random_reader(fields=False))
    store.files["scans/unfinished/projections.parquet"] = b""
    assert list_scans(store) == ["stone-1"]
    with pytest.raises(UnknownScanError, match="did you mean 'stone-1'"):
        open_scan_chunks(store, "stone-2")
    with pytest.raises(UnknownScanError, match="which holds stone-1"):
        open_scan_chunks(store, "unfinished")
    with pytest.raises(UnknownScanError, match="no scan"):
        open_scan_chunks(store, "../../etc")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["scan"].update(model="another"), "was altered"),
        (lambda v: v.update(schema_version=99), "schema version 99, expected 1"),
        (lambda v: v.pop("files"), "is not a scan's manifest"),
        (lambda v: v["layouts"].pop("projection"), "does not describe the projections"),
        (lambda v: v["layouts"]["projection"].update(n_rows=0), "is not a scan's manifest"),
    ],
)
def test_an_altered_manifest_is_refused(change, message):
    store = stored(random_reader(fields=False))
    path = "scans/stone-1/manifest.json"
    values = json.loads(store.files[path])
    change(values)
    store.files[path] = json.dumps(values).encode()
    with pytest.raises(ChunkCorruptError, match=f"scans/stone-1/manifest.json.*{message}"):
        open_scan_chunks(store, "stone-1")


def test_the_writer_refuses_blocks_out_of_turn_and_of_other_sizes():
    reader = random_reader(fields=False)
    layout = projection_layout(reader.scan, memory_bytes=4 * 2 * 6 * 5 * 2)
    frames = reader.frames[0]
    writer = ChunkFileWriter(io.BytesIO(), scan_id="s", layout=layout, bin_index=0, blocks=(0, layout.n_view_blocks))
    with pytest.raises(IngestError, match="expected view block 0"):
        writer.write_block(1, frames[:2])
    with pytest.raises(IngestError, match=r"must be \(2, 6, 5\) uint16, got \(2, 6, 5\) float64"):
        writer.write_block(0, frames[:2].astype(float))
    with pytest.raises(IngestError, match="lacks the view blocks"):
        writer.close()


@pytest.mark.parametrize("n_bytes", [0, 1, 5119, 5120, 5121, 65_536, 65_537])
def test_the_checksum_of_a_row_is_that_of_its_cells_in_their_order(n_bytes):
    pages = np.random.default_rng(1).integers(0, 256, (3, 2, n_bytes + 4), dtype=np.uint8)
    cells = pages[:, :, 4:]  # as they lie in a page, each behind its length
    expected = [zlib.crc32(cells[:, row].tobytes()) for row in range(2)]
    assert rows_crc32(list(cells)).tolist() == expected


def test_the_digests_of_chunk_files_are_named_by_their_algorithm():
    values = {"name": NAME, "kind": "projection", "bin_index": 0, "blocks": [0, 2], "bytes": 10}
    former, new = {**values, "sha256": "ab" * 32}, {**values, "blake3": "cd" * 32}
    assert (file_from_json(former).algorithm, file_from_json(former).digest) == ("sha256", "ab" * 32)
    assert (file_from_json(new).algorithm, file_from_json(new).digest) == ("blake3", "cd" * 32)
    for one in (former, new):
        assert canonical_json(file_to_json(file_from_json(one))) == canonical_json(one)
