# SPDX-License-Identifier: Apache-2.0
"""Set up a checkout for work: what ``make setup`` runs.  Needs nothing but Python's own library.

Three parts, each skipped when it is done already:

1. programs of the system (Java, Maven, DCMTK, dicom3tools, Chromium, PostgreSQL, a font): installed by apt when
   this is root on a Debian-like system, otherwise named with the command that installs them;
2. ``.venv`` with the project in editable form and everything it needs, in the versions of
   ``constraints.txt``; done again when one of the files in `STAMPED_FILES` changes;
3. the jar that the HDFS daemons of the tests run from.

The first part does not stop the other two: whoever lacks a peer still can run what does not need it.
Only Java is needed by the main job itself.  With ``CI=true`` every missing program is an error.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
VENV = REPOSITORY / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "conepacs-setup"
STAMPED_FILES = ("pyproject.toml", "constraints.txt", "tools/setup.py")
OLDEST_PYTHON = (3, 11)

#: Program -> (Debian package, what needs it).
PROGRAMS = {
    "java": ("openjdk-17-jre-headless", "Spark: reconstruct, demo, tests"),
    "mvn": ("maven", "fetching the HDFS daemons of the tests"),
    "storescu": ("dcmtk", "tests of the PACS"),
    "dciodvfy": ("dicom3tools", "tests of the DICOM encoding"),
    "chromium": ("chromium", "tests of the pages"),
    "chromedriver": ("chromium-driver", "tests of the pages"),
    "postgres": ("postgresql", "tests of the index and the queue"),
    "ip": ("iproute2", "tests of a network that is cut"),
    "setpriv": ("util-linux", "starting PostgreSQL, which refuses to run as root"),
}
#: Where Debian keeps the server's programs, away from the PATH.
POSTGRES_FOLDER = Path("/usr/lib/postgresql")
FONT_FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))
FONT_PACKAGE = ("fonts-dejavu-core", "pictures of the pages")


class SetupError(Exception):
    """Something is missing that this script cannot bring; the message says what to do."""


def main() -> int:
    """Run the three parts; 0 if the main job can run now."""
    started = time.monotonic()
    try:
        check_python()
        missing = install_programs()
        changed = install_python_packages()
        if "mvn" not in missing and "java" not in missing:
            fetch_hdfs_daemons()
        report_missing(missing)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"setup: this command failed with exit code {error.returncode}: {_text(error.cmd)}", file=sys.stderr)
        return 1
    if changed:
        print(f"setup: done in {time.monotonic() - started:.0f} s")
    return 0


def check_python() -> None:
    """Refuse a Python that is too old, before anything is written."""
    if sys.version_info < OLDEST_PYTHON:
        found = ".".join(str(n) for n in sys.version_info[:3])
        wanted = ".".join(str(n) for n in OLDEST_PYTHON)
        raise SetupError(
            f"{sys.executable} is Python {found}, expected {wanted} or newer: make setup PYTHON=/path/to/python{wanted}"
        )


def install_programs() -> dict[str, tuple[str, str]]:
    """Install missing programs if this is root and there is apt; return those that are missing after that."""
    missing = missing_programs()
    if missing and may_install():
        apt_install(sorted(package for package, _ in missing.values()))
        missing = missing_programs()
    return missing


def missing_programs() -> dict[str, tuple[str, str]]:
    """Look for every program and a font; return what is not there as name -> (Debian package, need)."""
    missing = {name: entry for name, entry in PROGRAMS.items() if shutil.which(name) is None}
    if any(POSTGRES_FOLDER.glob("*/bin/postgres")):
        missing.pop("postgres", None)
    if not any(next(folder.rglob("*.[to]tf"), None) for folder in FONT_FOLDERS):
        missing["a TrueType font"] = FONT_PACKAGE
    return missing


def may_install() -> bool:
    """Whether packages of the system can be installed from here."""
    return shutil.which("apt-get") is not None and os.geteuid() == 0


def apt_install(packages: list[str]) -> None:
    """Install Debian packages without asking anything."""
    print(f"setup: installing {' '.join(packages)}", flush=True)
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    quiet = ["apt-get", "-q", "-y", "-o", "Dpkg::Use-Pty=0"]
    subprocess.run([*quiet, "update"], check=True, env=environment, stdout=subprocess.DEVNULL)
    install = [*quiet, "install", "--no-install-recommends", *packages]
    subprocess.run(install, check=True, env=environment, stdout=subprocess.DEVNULL)


def install_python_packages() -> bool:
    """Make ``.venv`` and install the project with all it needs; return whether anything had to be done."""
    key = setup_key()
    if PYTHON.exists() and STAMP.exists() and STAMP.read_text(encoding="ascii").strip() == key:
        return False
    if not PYTHON.exists():
        make_venv()
    print("setup: installing the Python packages into .venv (several minutes the first time)", flush=True)
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    subprocess.run([*pip, "-c", "constraints.txt", "-e", ".[all,dev]"], check=True, cwd=REPOSITORY)
    STAMP.write_text(key + "\n", encoding="ascii")
    return True


def setup_key() -> str:
    """Digest of the files that say what belongs into ``.venv``."""
    digest = hashlib.sha256()
    for name in STAMPED_FILES:
        digest.update((REPOSITORY / name).read_bytes())
    return digest.hexdigest()


def make_venv() -> None:
    """Make ``.venv``; Debian keeps what that needs in a package of its own."""
    if subprocess.run([sys.executable, "-c", "import ensurepip"], stderr=subprocess.DEVNULL, check=False).returncode:
        package = "python3-venv"
        if not may_install():
            raise SetupError(f"{sys.executable} cannot make virtual environments: sudo apt-get install {package}")
        apt_install([package])
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)


def fetch_hdfs_daemons() -> None:
    """Bring the jar that the HDFS daemons of the tests run from, unless it is there; only CI insists on it."""
    command = [str(PYTHON), "-m", "local_cluster.jars"]
    if subprocess.run(command, check=False, cwd=REPOSITORY, stdout=subprocess.DEVNULL).returncode == 0:
        return
    if in_ci():
        raise SetupError("the tests on HDFS cannot run without the jar named above")
    print("setup: the tests on HDFS will be skipped", file=sys.stderr)


def in_ci() -> bool:
    """Whether whatever is missing is an error."""
    return os.environ.get("CI", "").lower() == "true"


def report_missing(missing: dict[str, tuple[str, str]]) -> None:
    """Say what is missing and how to install it; an error if the main job needs it, or in CI."""
    if not missing:
        return
    for name, (package, need) in missing.items():
        print(f"setup: {name} is missing (Debian package {package}); needed for {need}", file=sys.stderr)
    command = "sudo apt-get install " + " ".join(sorted(package for package, _ in missing.values()))
    if "java" in missing or in_ci():
        raise SetupError(f"install what is missing and run it again: {command}")
    print(f"setup: the tests that need them will be skipped; to install them: {command}", file=sys.stderr)


def _text(command: object) -> str:
    """Show the command line as one types it."""
    return " ".join(str(part) for part in command) if isinstance(command, (list, tuple)) else str(command)


if __name__ == "__main__":
    sys.exit(main())
