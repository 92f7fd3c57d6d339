# SPDX-License-Identifier: Apache-2.0
"""pyarrow, which knows nothing of it, reads what is written."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest.parquet_pages import Page, PageColumn, ParquetFooter

COLUMNS = (PageColumn("row", "int32"), PageColumn("sum", "int64"), PageColumn("cell", "binary", "zstd"))


def write(n_groups: int, n_rows: int, cell_bytes: int) -> tuple[bytes, list[list[int]]]:
    """A file of so many row groups, and the stored bytes of their columns."""
    file = io.BytesIO()
    footer, stored = ParquetFooter(COLUMNS, {"about": "ü" * 200}), []
    file.write(footer.magic())
    for group in range(n_groups):
        rows = np.arange(group * n_rows, (group + 1) * n_rows, dtype="<i4")
        cells = b"".join(cell_bytes.to_bytes(4, "little") + bytes([row % 251]) * cell_bytes for row in rows)
        plain = (rows.tobytes(), (10**12 * rows.astype("<i8")).tobytes(), cells)
        packed = (*plain[:2], pa.Codec("zstd", compression_level=1).compress(cells, asbytes=True))
        pages, start = [], file.tell()
        for content, whole in zip(packed, plain, strict=True):
            limits = (rows[:1].tobytes(), rows[-1:].tobytes()) if not pages else None
            pages.append(Page(len(content), len(whole), limits))
            file.write(footer.page_head(pages[-1], n_rows) + content)
        stored.append(footer.add_group(start, n_rows, pages))
    file.write(footer.to_bytes())
    return file.getvalue(), stored


@pytest.mark.parametrize(("n_groups", "n_rows", "cell_bytes"), [(1, 1, 0), (3, 7, 5), (40, 33, 1000)])
def test_pyarrow_reads_the_values(n_groups, n_rows, cell_bytes):
    content, stored = write(n_groups, n_rows, cell_bytes)
    file = pq.ParquetFile(io.BytesIO(content))
    table = file.read()
    table.validate(full=True)
    rows = list(range(n_groups * n_rows))
    assert table["row"].to_pylist() == rows
    assert table["sum"].to_pylist() == [10**12 * row for row in rows]
    assert table["cell"].to_pylist() == [bytes([row % 251]) * cell_bytes for row in rows]
    assert [field.nullable for field in table.schema] == [False] * 3
    assert file.metadata.metadata[b"about"].decode() == "ü" * 200
    for group, sizes in enumerate(stored):
        columns = [file.metadata.row_group(group).column(i) for i in range(3)]
        assert [column.total_compressed_size for column in columns] == sizes
        assert [column.compression for column in columns] == ["UNCOMPRESSED", "UNCOMPRESSED", "ZSTD"]
        limits = columns[0].statistics
        assert (limits.min, limits.max) == (group * n_rows, (group + 1) * n_rows - 1)
        assert columns[1].statistics is None


def test_row_groups_are_found_by_their_limits():
    content, _ = write(5, 10, 3)
    found = pq.read_table(io.BytesIO(content), filters=[("row", ">=", 42)])
    assert found["row"].to_pylist() == list(range(42, 50))
