# SPDX-License-Identifier: Apache-2.0
"""A small archive behind the HTTP service: an SqlIndex, packs of encoded series, received instances in a journal."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import numpy as np

from pacs.encode import EncodedSlice, SeriesEncoder
from pacs.index import InstanceRecord, Location
from pacs.journal import Journal
from pacs.pack import PackWriter
from pacs.part10 import describe_instance
from pacs.register import register_packs
from pacs.retrieve import InstanceReader
from storage.filesystem import open_store
from storage.publish import publish
from tests.support.index_engine import sqlite_index
from tests.support.series import series_spec
from viewer_api.app import create_app
from viewer_api.server import HttpServer
from viewer_api.settings import HttpSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastapi import FastAPI
    from numpy.typing import NDArray

    from pacs.description import SeriesSpec
    from pacs.sql_index import SqlIndex

BASE = "/dicom-web"


@dataclass(frozen=True, slots=True)
class AppClient:
    """Calls an app without sockets; its errors are answers, as for a real client."""

    app: FastAPI

    def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        """One GET."""

        async def call() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8042") as client:
                return await client.get(path, headers=headers)

        return anyio.run(call)


@dataclass(frozen=True, slots=True)
class HttpArchive:
    """The parts of the archive, for tests to add to and to look into."""

    index: SqlIndex
    reader: InstanceReader

    def app(self, **settings: Any) -> FastAPI:
        """The service over the archive."""
        return create_app(self.index, self.reader, HttpSettings(**settings))

    def client(self, **settings: Any) -> AppClient:
        """A client of the service, without sockets."""
        return AppClient(self.app(**settings))

    def add_series(self, spec: SeriesSpec, volume: NDArray[np.float32], name: str = "run") -> list[EncodedSlice]:
        """Encode, pack and register a volume (z, y, x) float32."""
        encoder = SeriesEncoder(spec)
        slices = [encoder.encode_slice(z, plane) for z, plane in enumerate(volume)]
        path = f"packs/{name}-{spec.bin_index}.zip"

        def write(handle: Any) -> None:
            writer = PackWriter(handle, source=name)
            for one in slices:
                writer.add(one.part10_bytes, one.header)
            writer.finish()

        publish(self.reader.store, path, write, kind="write_once")
        register_packs(self.index, self.reader.store, [path], source=name)
        return slices

    def receive(self, part10_bytes: bytes) -> InstanceRecord:
        """Put an instance into the journal and the index, as the SCP does."""
        header = describe_instance(part10_bytes)
        assert self.reader.journal is not None
        path = self.reader.journal.append([part10_bytes])
        digest = hashlib.sha256(part10_bytes).hexdigest()
        location = Location(path, 0, len(part10_bytes), digest, header.dataset_sha256, header.pixel_offset)
        record = InstanceRecord(
            header.sop_instance_uid, header.sop_class_uid, header.transfer_syntax_uid, header.study_uid,
            header.series_uid, header.patient_id, header.attributes, location,
        )  # fmt: skip
        self.index.register([record], source="TEST")
        return record


@contextmanager
def http_archive(folder: Path) -> Iterator[HttpArchive]:
    """An empty archive in a folder."""
    with sqlite_index(folder / "index.sqlite") as index:
        yield HttpArchive(index, InstanceReader(open_store(folder / "store"), Journal(folder / "journal")))


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The service on an ephemeral port of loopback, by a real uvicorn in a thread; its address."""
    with HttpServer(app, HttpSettings(port=0)) as server:
        yield f"http://127.0.0.1:{server.port}"


def ramp_volume(spec: SeriesSpec | None = None) -> NDArray[np.float32]:
    """Values (z, y, x) within 0.02 to 0.06 that differ in each voxel."""
    shape = (spec or series_spec()).grid.shape
    n_voxels = int(np.prod(shape))
    return np.linspace(0.021, 0.059, n_voxels, dtype=np.float32).reshape(shape)


def instance_path(one: EncodedSlice | InstanceRecord) -> str:
    """Path of an instance in DICOMweb."""
    header = one.header if isinstance(one, EncodedSlice) else one
    return f"{BASE}/studies/{header.study_uid}/series/{header.series_uid}/instances/{header.sop_instance_uid}"


def split_parts(content: bytes, content_type: str) -> list[tuple[dict[str, str], bytes]]:
    """Headers and bodies of a multipart message."""
    boundary = content_type.partition("boundary=")[2].strip('"').encode()
    pieces = content.split(b"--" + boundary)
    assert pieces[0] == b""
    assert pieces[-1] == b"--\r\n"
    parts = []
    for piece in pieces[1:-1]:
        lead, _, body = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in lead.decode().split("\r\n"))
        parts.append((headers, body.removesuffix(b"\r\n")))
    return parts
