# SPDX-License-Identifier: Apache-2.0
"""The machine itself: system, Python, Java, packages, back ends, GPU."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cli.checks.check import Check

if TYPE_CHECKING:
    from collections.abc import Iterator

_JAVA_MINIMUM = 17
_NVIDIA_VENDOR = "0x10de"
_DISPLAY_CLASS = "0x03"
_RUN_S = 30

#: Package -> (what it is for, extra that brings it).
PACKAGES = {
    "pyarrow": ("upload and read chunks", "ingest"),
    "h5py": ("HDF5 and MATLAB v7.3 sources", "ingest"),
    "tifffile": ("TIFF and Nikon sources", "ingest"),
    "hdfs_native": ("hdfs: stores", "ingest"),
    "hdfs": ("webhdfs: stores", "ingest"),
    "s3fs": ("s3: stores", "s3"),
    "psycopg": ("an index in PostgreSQL", "postgresql"),
    "numba": ("reconstruct on the CPU", "compute"),
    "pyspark": ("reconstruct", "spark"),
    "pynetdicom": ("serve DICOM", "pacs"),
    "fastapi": ("serve DICOMweb", "api"),
    "prometheus_client": ("metrics", "api"),
    "matplotlib": ("pictures of inspect and demo", "draw"),
}


def check_machine() -> Iterator[Check]:
    """Look at the machine itself."""
    yield Check(
        "system",
        "ok",
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    )
    yield _java()
    yield from _worker_python()
    for name, (purpose, extra) in PACKAGES.items():
        if importlib.util.find_spec(name) is None:
            yield Check(f"package {name}", "missing", f"needed for: {purpose}", f"pip install 'conepacs[{extra}]'")
    yield from _backends()
    yield from check_gpu()
    yield _clock()


def _java() -> Check:
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    remedy = f"install a Java runtime {_JAVA_MINIMUM} or newer, e.g. apt install openjdk-17-jre-headless"
    if java is None:
        return Check("java", "missing", "needed to reconstruct (Spark)", remedy)
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False, timeout=_RUN_S).stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        where = f"JAVA_HOME is {home}, but " if home else ""
        return Check("java", "wrong", f"{where}{java} does not run: {error}", f"correct JAVA_HOME, or {remedy}")
    line = next((line for line in said.splitlines() if "version" in line), "") or f"{java} does not tell its version"
    match = re.search(r'version "(\d+)', line)
    if match is None or int(match[1]) < _JAVA_MINIMUM:
        return Check("java", "wrong", line, remedy)
    return Check("java", "ok", line)


def _worker_python() -> Iterator[Check]:
    """The Python that Spark's workers of this machine run must be of the driver's version."""
    named = os.environ.get("PYSPARK_PYTHON")
    if not named:
        return
    remedy = f"let PYSPARK_PYTHON name a Python {sys.version_info.major}.{sys.version_info.minor}, on all nodes"
    program = "import sys; print('.'.join(map(str, sys.version_info[:2])))"
    try:
        done = subprocess.run([named, "-c", program], capture_output=True, text=True, check=False, timeout=_RUN_S)
        found = done.stdout.strip() or f"nothing (exit code {done.returncode})"
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Check("workers' Python", "wrong", f"PYSPARK_PYTHON is {named}, which does not run: {error}", remedy)
        return
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    if found == own:
        yield Check("workers' Python", "ok", f"{named} is Python {found}, as this one")
    else:
        yield Check("workers' Python", "wrong", f"{named} is Python {found}, this one is {own}", remedy)


def _backends() -> Iterator[Check]:
    from reconstruction.backends import list_backends

    for name, lacking in list_backends().items():
        yield Check(f"back end {name}", "missing" if lacking else "ok", lacking or "can be used")


def check_gpu(devices: Path = Path("/sys/bus/pci/devices"), nodes: Path = Path("/dev")) -> Iterator[Check]:
    """Say whether an NVIDIA GPU is there, whether its driver works, and whether Python can use it."""
    smi = shutil.which("nvidia-smi")
    has_nodes = any(nodes.glob("nvidia[0-9]*"))
    if smi is None and not has_nodes:
        if _has_gpu(devices):
            yield Check(
                "gpu",
                "wrong",
                "an NVIDIA GPU is in this machine, but no driver is loaded",
                "install NVIDIA's driver and restart; in a container, pass the GPU through",
            )
        else:
            yield Check("gpu", "missing", "no NVIDIA GPU in this machine: back ends of the CPU are used")
        return
    if smi is None:
        yield Check(
            "gpu",
            "wrong",
            f"{nodes}/nvidia* is there, but no program nvidia-smi",
            "install the tools of NVIDIA's driver (nvidia-utils)",
        )
        return
    query = [smi, "--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=_RUN_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Check("gpu", "wrong", f"nvidia-smi does not answer: {error}", "load the driver anew, or restart")
        return
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0 or not lines:
        said = next(iter((done.stdout + done.stderr).strip().splitlines()), f"exit code {done.returncode}")
        yield Check(
            "gpu",
            "wrong",
            f"nvidia-smi says: {said}",
            "driver and library of different versions need a restart; a GPU that fell off the bus too",
        )
        return
    for number, line in enumerate(lines):
        yield Check(f"gpu {number}", "ok", line)
    if importlib.util.find_spec("cupy") is None:
        yield Check("cupy", "missing", "needed to use the GPU", "pip install cupy for the driver's CUDA: cupy-cuda12x")


def _has_gpu(devices: Path) -> bool:
    """Whether the PCI bus has a display controller of NVIDIA's."""
    for device in devices.glob("*"):
        try:
            vendor = (device / "vendor").read_text(encoding="ascii").strip()
            kind = (device / "class").read_text(encoding="ascii").strip()
        except OSError:
            continue
        if vendor == _NVIDIA_VENDOR and kind.startswith(_DISPLAY_CLASS):
            return True
    return False


def _clock() -> Check:
    """The clock and its zone: dates of series are local ones, everything else is kept in UTC."""
    now = time.time()
    zone, offset = time.localtime(now).tm_zone, time.strftime("%z", time.localtime(now))
    if now < 1.7e9:
        return Check("clock", "wrong", f"it says {time.strftime('%Y-%m-%d', time.gmtime(now))}", "set it, e.g. by NTP")
    return Check("clock", "ok", f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(now))}, zone {zone} (UTC{offset})")
