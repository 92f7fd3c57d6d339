# SPDX-License-Identifier: Apache-2.0
"""``conepacs doctor``: what this machine can do, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import secrets
import shutil
import subprocess
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import typer
from rich.text import Text

from cli.options import IndexOption, JsonOption, StoreOption
from cli.output import console, mebibytes, print_json
from cli.settings import StoreSettings, load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.filesystem import Store

State = Literal["ok", "missing", "wrong"]
_JAVA_MINIMUM = 17
_LOW_DISK_BYTES = 5 << 30

#: Package -> (what it is for, extra that brings it).
_PACKAGES = {
    "pyarrow": ("upload and read chunks", "ingest"),
    "h5py": ("HDF5 and MATLAB v7.3 sources", "ingest"),
    "tifffile": ("TIFF and Nikon sources", "ingest"),
    "hdfs_native": ("hdfs: stores", "ingest"),
    "hdfs": ("webhdfs: stores", "ingest"),
    "numba": ("reconstruct on the CPU", "compute"),
    "pyspark": ("reconstruct", "spark"),
    "pynetdicom": ("serve DICOM", "pacs"),
    "fastapi": ("serve DICOMweb", "api"),
    "matplotlib": ("pictures of inspect and demo", "draw"),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: how it stands, what was found, and what to do."""

    name: str
    state: State
    found: str
    remedy: str = ""


def doctor(store: StoreOption = None, index: IndexOption = None, as_json: JsonOption = False) -> None:
    """Look over Python, Java, packages, back ends, store, index and disk, and say what to do.

    A missing part is no fault where its role is not needed: a workstation that only uploads needs no Java.  Exit code
    4 if something is wrong.

        conepacs doctor
        conepacs doctor --store hdfs://namenode:8020/pacs --json
    """
    settings = load(StoreSettings, store=store, index=index)
    checks = list(_checks(settings.store, settings.index))
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        colours = {"ok": "green", "missing": "yellow", "wrong": "red"}
        out = console()
        for check in checks:
            out.print(Text.assemble((f"{check.state:<7}", colours[check.state]), f" {check.name}: {check.found}"))
            if check.remedy:
                out.print(f"        -> {check.remedy}")
    if any(check.state == "wrong" for check in checks):
        raise typer.Exit(4)


def _checks(store_url: str, index: str) -> Iterator[Check]:
    yield Check("system", "ok", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python "
                f"{platform.python_version()}")  # fmt: skip
    yield _java()
    for name, (purpose, extra) in _PACKAGES.items():
        if importlib.util.find_spec(name) is None:
            yield Check(f"package {name}", "missing", f"needed to {purpose}", f"pip install 'conepacs[{extra}]'")
    yield from _backends()
    yield from _store(store_url, index)


def _java() -> Check:
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    remedy = f"install a Java runtime {_JAVA_MINIMUM} or newer, e.g. apt install openjdk-17-jre-headless"
    if java is None:
        return Check("java", "missing", "needed to reconstruct (Spark)", remedy)
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False, timeout=30).stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        where = f"JAVA_HOME is {home}, but " if home else ""
        return Check("java", "wrong", f"{where}{java} does not run: {error}", f"correct JAVA_HOME, or {remedy}")
    line = next((line for line in said.splitlines() if "version" in line), "") or f"{java} does not tell its version"
    match = re.search(r'version "(\d+)', line)
    if match is None or int(match[1]) < _JAVA_MINIMUM:
        return Check("java", "wrong", line, remedy)
    return Check("java", "ok", line)


def _backends() -> Iterator[Check]:
    from reconstruction.backends import list_backends

    for name, lacking in list_backends().items():
        yield Check(f"back end {name}", "missing" if lacking else "ok", lacking or "can be used")


def _store(url: str, index: str) -> Iterator[Check]:
    from storage.errors import StorageError
    from storage.filesystem import local_path, open_store
    from storage.publish import publish_bytes

    try:
        store = open_store(url)
        folder = local_path(store, "")
        if folder is not None and not folder.exists():
            yield Check(f"store {url}", "missing", "no such folder yet", "upload, pacs import or serve make it")
            return
        probe = f"doctor-{secrets.token_hex(4)}"
        publish_bytes(store, probe, b"conepacs", kind="write_once")
        same = store.read_bytes(probe) == b"conepacs"
        store.delete(probe)
    except StorageError as error:
        yield Check(f"store {url}", "wrong", str(error), "check the URL, the rights, and that the store is up")
        return
    yield Check(f"store {url}", "ok" if same else "wrong", "a file was written, read and deleted")
    if folder is not None:
        free = shutil.disk_usage(folder).free
        low = free < _LOW_DISK_BYTES
        yield Check("disk", "wrong" if low else "ok", f"{mebibytes(free)} free", "make room" if low else "")
    yield from _index(store, index)


def _index(store: Store, index: str) -> Iterator[Check]:
    if importlib.util.find_spec("pydicom") is None:
        return
    from cli.archive import open_index
    from pacs.errors import PacsError
    from pacs.index import Query
    from storage.errors import StorageError

    try:
        n_studies = len(open_index(store, index).find(Query("STUDY"), limit=1000))
        yield Check("index", "ok", f"{n_studies if n_studies < 1000 else 'at least 1000'} studies")
    except (PacsError, StorageError) as error:
        yield Check("index", "wrong", str(error), "give --index, or move the file away if it is damaged")
