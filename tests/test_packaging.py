# SPDX-License-Identifier: Apache-2.0
"""What each role installs and imports, what the wheel holds, and that the files of conf/ can be read."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import subprocess
import sys
import tomllib
import zipfile
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.peers import REPOSITORY
from tests.support.wheel import PACKAGES, build_wheel, package_files

if TYPE_CHECKING:
    from pathlib import Path

#: Distributions that a workstation that only uploads must not be made to install.
NOT_FOR_UPLOAD = {"pyspark", "pandas", "numba", "fastapi", "uvicorn", "pynetdicom", "pydicom", "matplotlib"}

#: Brought by the user to match the machine's GPU; the back ends say so when they are missing.
OPTIONAL_ACCELERATORS = {"cupy", "astra"}

# Runs in a fresh interpreter: argv = modules to import | roots banned for all | roots banned for our own code.
IMPORT_WITH_BANS = """
import builtins, importlib, sys

modules, banned, banned_for_us = (set(part.split(",")) - {""} for part in sys.argv[1:4])
ours = {"storage", "reconstruction", "ingest", "cli"}
plain_import = builtins.__import__

def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    root = name.partition(".")[0]
    importer = (globals or {}).get("__name__", "")
    if level == 0 and (root in banned or root in banned_for_us and importer.partition(".")[0] in ours):
        raise ImportError(f"{importer} imports {root}")
    return plain_import(name, globals, locals, fromlist, level)

builtins.__import__ = guarded
for module in sorted(modules):
    importlib.import_module(module)
leaked = banned & {name.partition(".")[0] for name in sys.modules}
sys.exit(f"imported in the end: {sorted(leaked)}" if leaked else 0)
"""

# Argv = the module, the roots that it may import besides Python's own library.
IMPORT_WITH_NOTHING_BUT = """
import importlib, sys

allowed = set(sys.argv[2].split(",")) | sys.stdlib_module_names

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"{name} is not to be imported here", name=name)
        return None

sys.meta_path.insert(0, Refuse())
importlib.import_module(sys.argv[1])
"""


def run_python(program: str, *arguments: str) -> None:
    """Run a program in an interpreter of its own from the root of the checkout."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def modules_below(package: str) -> list[str]:
    """Names of all modules in a package."""
    files = sorted((REPOSITORY / package).rglob("*.py"))
    return [
        ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        for file in files
        if file.name != "__main__.py"
    ]


def test_upload_imports_no_spark_no_server_and_nothing_posix_only() -> None:
    modules = [*modules_below("storage"), *modules_below("ingest")]
    modules += [name for name in modules_below("cli") if name in {"cli.main", "cli.upload", "cli.inspect"}]
    heavy = "pyspark,pandas,numba,llvmlite,fastapi,starlette,uvicorn,pynetdicom,pydicom,matplotlib,itk"
    run_python(IMPORT_WITH_BANS, ",".join(modules), heavy, "fcntl,resource,pwd,grp,termios")


@pytest.mark.parametrize("module", ["reconstruction", "reconstruction.geometry", "reconstruction.errors"])
def test_reconstruction_needs_numpy_only(module: str) -> None:
    run_python(IMPORT_WITH_NOTHING_BUT, module, "reconstruction,numpy")


def test_an_import_ban_is_noticed() -> None:
    with pytest.raises(AssertionError, match="not to be imported"):
        run_python(IMPORT_WITH_NOTHING_BUT, "reconstruction.geometry", "reconstruction")


def test_upload_extra_installs_no_spark_no_server_and_no_compiler() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting = [*project["dependencies"], *project["optional-dependencies"]["ingest"]]
    found: set[str] = set()
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        if name in found:
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or []:
            marker = Requirement(line).marker
            extras = requirement.extras or {""}
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(line)
    assert "pyarrow" in found
    assert not found & NOT_FOR_UPLOAD


def test_wheel_holds_every_file_of_every_package(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    missing = sorted(set(package_files()) - held)
    assert not missing, f"not in the wheel: {missing}; see package-data in pyproject.toml"
    assert not [name for name in held if name.startswith(("tests/", "benchmarks/", "tools/", "docs/"))]
    assert any(name.endswith("licenses/LICENSE") for name in held)


def runtime_imports(tree: ast.AST) -> set[str]:
    """Roots of all imports, at any depth, save those for type checkers only."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
        found |= runtime_imports(node)
    return found


def test_every_third_party_import_is_declared() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for name in extras if name != "dev" for line in extras[name])]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    distributions = importlib.metadata.packages_distributions()
    undeclared = set()
    for name in (name for name in package_files() if name.endswith(".py")):
        for root in runtime_imports(ast.parse((REPOSITORY / name).read_text(encoding="utf-8"))):
            if root in sys.stdlib_module_names or root in PACKAGES or root in OPTIONAL_ACCELERATORS:
                continue
            if not declared & {canonicalize_name(found) for found in distributions.get(root, [root])}:
                undeclared.add(f"{name} imports {root}")
    assert sorted(undeclared) == []


def test_constraints_hold_names_and_versions_only() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if not line.startswith("#"):
            requirement = Requirement(line)
            assert requirement.url is None
            assert [specifier.operator for specifier in requirement.specifier] == ["=="]


def test_every_file_of_conf_can_be_read() -> None:
    for file in sorted(path for path in (REPOSITORY / "conf").rglob("*") if path.is_file()):
        if file.suffix == ".toml":
            tomllib.loads(file.read_text(encoding="utf-8"))
        elif file.suffix == ".xml":
            ElementTree.parse(file)
        elif file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        elif file.suffix == ".conf":
            lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
            assert all(len(line.split(None, 1)) == 2 for line in lines), file.name
        elif file.suffix in (".yaml", ".yml"):
            assert list(yaml.safe_load_all(file.read_text(encoding="utf-8"))), file.name
        elif file.suffix in (".sh", ".sbatch"):
            assert file.read_text(encoding="utf-8").startswith("#!"), file.name
        elif file.name == "Dockerfile":
            assert "\nFROM " in file.read_text(encoding="utf-8"), file.name
        else:
            raise AssertionError(f"{file.name}: nothing here reads files of this kind")
