# SPDX-License-Identifier: Apache-2.0
"""The jars that the daemons run from; ``python -m local_cluster.jars`` fetches those that pyspark does not bring.

pyspark bundles Hadoop's client and all of Spark.  One more jar, ``hadoop-client-minicluster`` of the same version, has
Hadoop's daemons; Maven fetches it once into the cache folder.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from local_cluster.errors import MissingPartError

JAVA_MINIMUM = 17
_JAVA_REMEDY = f"install a Java runtime {JAVA_MINIMUM} or newer, e.g. apt install openjdk-17-jre-headless"
_ARTIFACT = "hadoop-client-minicluster"
# Without slf4j the NameNode dies at once, without jcl-over-slf4j only the DataNode does.
_CLIENT_JARS = (
    "hadoop-client-api",
    "hadoop-client-runtime",
    "slf4j-api",
    "log4j-slf4j2-impl",
    "log4j-api",
    "log4j-core",
    "log4j-1.2-api",
    "jcl-over-slf4j",
    "snappy-java",
    "leveldbjni-all",
)


def spark_home() -> Path:
    """Folder of the installed pyspark, found without importing it.

    Raises
    ------
    MissingPartError
        If it is not installed.
    """
    spec = importlib.util.find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise MissingPartError(
            "the package pyspark, which brings Spark and Hadoop, is not installed: pip install 'conepacs[spark]'"
        )
    return Path(spec.origin).parent


def hadoop_version() -> str:
    """Version of Hadoop in the installed pyspark; the daemons must be of the same one.

    Raises
    ------
    MissingPartError
        If pyspark is not installed, or has no Hadoop.
    """
    jars = spark_home() / "jars"
    for jar in jars.glob("hadoop-client-api-*.jar"):
        match = re.fullmatch(r"hadoop-client-api-(.+)\.jar", jar.name)
        if match:
            return match[1]
    raise MissingPartError(f"{jars} has no hadoop-client-api jar: install pyspark again, with the Hadoop it brings")


def java_program() -> str:
    """Path of the Java program: that of JAVA_HOME, else of the PATH.

    Raises
    ------
    MissingPartError
        If there is none.
    """
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    if java is None:
        raise MissingPartError(f"no java on the PATH, which HDFS and Spark need: {_JAVA_REMEDY}")
    return java


def require_java() -> None:
    """Refuse a Java that is missing, does not run, or is older than `JAVA_MINIMUM`.

    Raises
    ------
    MissingPartError
        If it is so.
    """
    java = java_program()
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False, timeout=60).stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        home = os.environ.get("JAVA_HOME")
        where = f"JAVA_HOME is {home}, but " if home else ""
        raise MissingPartError(f"{where}{java} does not run: correct JAVA_HOME, or {_JAVA_REMEDY}") from error
    match = re.search(r'version "(\d+)', said)
    if match is None or int(match[1]) < JAVA_MINIMUM:
        found = f"version {match[1]}" if match else "of no version it tells"
        raise MissingPartError(f"{java} is {found}, expected {JAVA_MINIMUM} or newer: {_JAVA_REMEDY}")


def jar_folder() -> Path:
    """Where fetched jars lie (CONEPACS_CACHE, else the user's cache folder)."""
    cache = os.environ.get("CONEPACS_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "conepacs"


def cached_jar() -> Path:
    """Path of the jar of Hadoop's daemons once it is fetched."""
    return jar_folder() / f"{_ARTIFACT}-{hadoop_version()}.jar"


def minicluster_jar() -> Path:
    """Path of the jar of Hadoop's daemons, fetched by Maven if it is not in the cache.

    Raises
    ------
    MissingPartError
        If it cannot be fetched, or pyspark is not installed.
    """
    return fetch_jar("org.apache.hadoop", _ARTIFACT, hadoop_version())


def fetch_jar(group: str, artifact: str, version: str) -> Path:
    """Path of a jar, fetched by Maven if it is not in the cache; a broken download is never taken for a whole one.

    Raises
    ------
    MissingPartError
        If Maven is not installed, or does not get it.
    """
    jar = jar_folder() / f"{artifact}-{version}.jar"
    if jar.exists():
        return jar
    maven = shutil.which("mvn")
    if maven is None:
        raise MissingPartError(
            f"{jar.name} is not in {jar.parent} and Maven, which fetches it, is not installed: apt install maven"
        )
    jar.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=jar.parent) as folder:
        wanted = [f"-Dartifact={group}:{artifact}:{version}", f"-DoutputDirectory={folder}"]
        command = [maven, "-q", "-B", "dependency:copy", *wanted]
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        fetched = Path(folder) / jar.name
        if done.returncode or not fetched.exists():
            reason = next((line for line in done.stdout.splitlines() if "ERROR" in line), "no reason told")
            raise MissingPartError(
                f"Maven could not fetch {group}:{artifact}:{version} ({reason.strip()[:300]}): check the network and "
                f"Maven's settings, or put {jar.name} into {jar.parent}"
            )
        os.replace(fetched, jar)
    return jar


def hadoop_class_path() -> list[Path]:
    """Jars of Hadoop's daemons: their own, and those of pyspark's that they need.

    Not all of pyspark's: Spark's own Jetty would be in the way.

    Raises
    ------
    MissingPartError
        If one is missing.
    """
    jars = [minicluster_jar()]
    folder = spark_home() / "jars"
    for name in _CLIENT_JARS:
        pattern = re.compile(rf"{re.escape(name)}-\d.*\.jar")
        found = [jar for jar in folder.glob(f"{name}-*.jar") if pattern.fullmatch(jar.name)]
        if not found:
            raise MissingPartError(f"{folder} has no {name} jar: install pyspark again, with the Hadoop it brings")
        jars.append(found[0])
    return jars


if __name__ == "__main__":
    try:
        print(minicluster_jar())  # noqa: T201 - run as a program by the set-up
    except MissingPartError as error:
        sys.exit(f"the HDFS daemons' jar could not be fetched: {error}")
