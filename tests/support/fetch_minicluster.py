# SPDX-License-Identifier: Apache-2.0
"""Fetch the one jar that the HDFS daemons need beyond pyspark: ``python -m tests.support.fetch_minicluster``."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ARTIFACT = "hadoop-client-minicluster"


def pyspark_jars() -> Path:
    """Folder of the jars in the installed pyspark, found without importing it."""
    spec = importlib.util.find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("pyspark is not installed; it brings the Hadoop client jars")
    return Path(spec.origin).parent / "jars"


def hadoop_version() -> str:
    """Version of Hadoop in the installed pyspark; the daemons must be of the same one."""
    for jar in pyspark_jars().glob("hadoop-client-api-*.jar"):
        match = re.fullmatch(r"hadoop-client-api-(.+)\.jar", jar.name)
        if match:
            return match[1]
    raise FileNotFoundError(f"no hadoop-client-api jar in {pyspark_jars()}")


def cached_jar() -> Path:
    """Where the jar lies once it is fetched (CONEPACS_CACHE, else the user's cache folder)."""
    cache = os.environ.get("CONEPACS_CACHE") or os.environ.get("XDG_CACHE_HOME")
    folder = Path(cache) if cache else Path.home() / ".cache"
    return folder / "conepacs" / f"{ARTIFACT}-{hadoop_version()}.jar"


def minicluster_jar() -> Path:
    """Path of the jar, fetched by Maven if it is not in the cache; a broken download is never taken for a whole one."""
    jar = cached_jar()
    if jar.exists():
        return jar
    maven = shutil.which("mvn")
    if maven is None:
        raise FileNotFoundError(f"{jar.name} is not in {jar.parent} and Maven, which fetches it, is not installed")
    jar.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=jar.parent) as folder:
        artifact = f"org.apache.hadoop:{ARTIFACT}:{hadoop_version()}"
        command = [maven, "-q", "-B", "dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={folder}"]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        os.replace(Path(folder) / jar.name, jar)
    return jar


if __name__ == "__main__":
    try:
        print(minicluster_jar())
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        sys.exit(f"the HDFS daemons' jar could not be fetched: {error}")
