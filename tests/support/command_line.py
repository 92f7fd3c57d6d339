# SPDX-License-Identifier: Apache-2.0
"""Runs the `conepacs` command: in this process, and in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cli.main import run
from tests.support.peers import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


@dataclass(frozen=True)
class Outcome:
    """What came of one command."""

    code: int
    out: str
    err: str

    def failed_with(self, code: int, *words: str) -> None:
        """Assert that it ended with this code and one plain sentence that has these words."""
        assert self.code == code, self
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("conepacs: ")
        assert "Traceback" not in self.out + self.err
        for word in words:
            assert word in lines[0], lines[0]


def conepacs(capsys: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    """Run a command in this process."""
    capsys.readouterr()
    code = run([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return Outcome(code, said.out, said.err)


def start_conepacs(
    *arguments: object, folder: Path, variables: dict[str, str] | None = None, **options
) -> subprocess.Popen[str]:
    """Start a command in a process of its own, with `folder` as its working folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CONEPACS_")}
    return subprocess.Popen(
        [sys.executable, "-c", "from cli.entry import main; main()", *map(str, arguments)],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"} | (variables or {}),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def conepacs_apart(*arguments: object, folder: Path, timeout_s: float = 120.0) -> Outcome:
    """Run a command in a process of its own."""
    with start_conepacs(*arguments, folder=folder) as running:
        try:
            out, err = running.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            running.kill()
            raise
    return Outcome(running.returncode, out, err)


def files_below(folder: Path) -> dict[str, int]:
    """Every file below a folder and its size; empty if there is no such folder."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
