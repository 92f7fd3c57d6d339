# SPDX-License-Identifier: Apache-2.0
"""Help that teaches, one sentence for each error, and exit codes that scripts can rely on."""

from __future__ import annotations

import inspect
import logging
import re
import shlex
import subprocess
import sys
import tempfile

import pytest
import typer

import cli.inspect
import ingest.errors
import jobs.errors
import pacs.errors
import reconstruction.errors
import spark_jobs.errors
import storage.errors
from cli.errors import EXIT_CODES, exit_code_of
from cli.main import app, run
from tests.support.command_line import conepacs, conepacs_apart
from tests.support.peers import REPOSITORY

ROOT = typer.main.get_command(app)


def verbs_below(group, before=""):
    """Every verb by the words that call it; groups of verbs may hold others."""
    found = {}
    for name, command in group.commands.items():
        inner = hasattr(command, "commands")
        found |= verbs_below(command, f"{before}{name} ") if inner else {f"{before}{name}": command}
    return found


VERBS = verbs_below(ROOT)
#: Lines of the manual that are commands, without what a reader puts in.
PAGES = ("README.md", "docs/quickstart.md", "docs/cli.md", "docs/install.md", "docs/formats.md")


def examples(verb) -> list[str]:
    return [line.strip() for line in inspect.getdoc(verb.callback).splitlines() if "conepacs " in line[:13]]


def require_parsed(line: str) -> None:
    """Parse a command line as the command would, without running it."""
    words = shlex.split(line, comments=True)
    assert words.pop(0) == "conepacs"
    if not words or words == ["--version"]:
        return
    command = ROOT
    while hasattr(command, "commands") and words and words[0] != "--help":
        _, command, words = command.resolve_command(None, words)
    if "--help" not in words:
        command.make_context(command.name, words)


def test_verbs_are_those_that_were_promised():
    of = {name: {verb.partition(" ")[2] for verb in VERBS if verb.startswith(f"{name} ")} for name in ROOT.commands}
    assert {name for name, inner in of.items() if not inner} == {
        "upload", "inspect", "plan", "preview", "sweep", "reconstruct", "serve", "doctor", "demo",
    }  # fmt: skip
    assert {name: inner for name, inner in of.items() if inner} == {
        "pacs": {"import", "find", "send", "get", "echo", "sweep"},
        "jobs": {
            "submit reconstruct", "submit plan", "submit KIND", "list", "kinds", "show", "log", "cancel", "retry",
            "priority", "wait", "sweep", "work",
        },
        "backup": {"create", "verify", "restore", "list"},
        "cluster": {"up", "status", "add", "drain", "down"},
        "geometry": {"show", "convert", "export"},
    }  # fmt: skip


@pytest.mark.parametrize("name", VERBS)
def test_help_teaches(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    outcome = conepacs(capsys, *name.split(), "--help")
    assert outcome.code == 0
    assert outcome.err == ""
    lines = [line.strip() for line in outcome.out.splitlines()]
    assert max(map(len, lines)) <= 80
    assert "Examples" in lines
    assert examples(VERBS[name])
    for example in examples(VERBS[name]):
        assert example in lines, "an example is broken over lines"
        require_parsed(example)
    for option in VERBS[name].params:
        assert option.help, f"{option.name} has no help"
        if option.name != "help":
            assert re.fullmatch(r"[A-Z-].*\.|[a-z_]+, .*\.", option.help), f"{option.name}: '{option.help}'"
        # A pair of brackets in a text is taken for markup and vanishes.
        assert not re.search(r"(?<!\\)\[[a-z/]", option.help), f"{option.name}: '{option.help}'"


def test_no_arguments_show_the_help(capsys):
    outcome = conepacs(capsys)
    assert outcome.code == 2
    assert "From a scanner's projections" in outcome.out + outcome.err
    assert conepacs(capsys, "pacs").code == 2


def test_version(capsys):
    outcome = conepacs(capsys, "--version")
    assert (outcome.code, outcome.err) == (0, "")
    assert re.fullmatch(r"conepacs \d+\.\d+\.\d+\S*\n", outcome.out)


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_manual_exist(page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("conepacs ")]
    lines += re.findall(r"`(conepacs [a-z][^`]*)`", text)
    for line in lines:
        if "VERB" not in line:
            require_parsed(line)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["upload", "--colour", "x"], "No such option: --colour"),
        (["transmit"], "No such command 'transmit'"),
        (["upload"], "Missing argument"),
        (["plan", "x", "--cores", "many"], "'--cores': Input should be a valid integer"),
        (["plan", "x", "--task-memory", "lots"], "a size is a number with k, M, G or T"),
        (["plan", "x", "--shape", "1,2"], "--shape needs three whole numbers"),
        (["plan", "x", "--shape", "1,2,0.5"], "--shape needs three whole numbers"),
        (["plan", "x", "--center", "1,nan,2"], "--center needs three numbers"),
        (["plan", "x", "--mu-range", "1"], "--mu-range needs two numbers"),
        (["upload", "x", "--set", "bin_pixels"], "--set needs KEY=VALUE"),
        (["serve", "--http-port", "70000"], "port is 70000"),
        (["serve", "--dicom-port", "-1"], "port is -1"),
        (["serve", "--ae-title", "MUCH TOO LONG A TITLE"], "AE title is 'MUCH TOO LONG A TITLE'"),
        (["serve", "--ae-title", ""], "AE title is ''"),
        (["serve", "--destination", "somewhere"], "a peer is AE@HOST:PORT"),
        (["pacs", "echo", "AE@host:99999"], "a peer is AE@HOST:PORT"),
        (["pacs", "find", "planet"], "level is patient, study, series or image, got 'planet'"),
        (["pacs", "send", "AE@localhost:104"], "give files or folders, or --study or --series"),
    ],
)
def test_wrong_usage(arguments, words, capsys, working_folder):
    outcome = conepacs(capsys, *arguments)
    assert outcome.code == 2
    first, usage, hint = outcome.err.splitlines()
    assert first.startswith("conepacs: ")
    assert words in first
    assert usage.startswith("Usage: conepacs")
    assert hint.startswith("Try 'conepacs")
    assert list(working_folder.iterdir()) == []


PACKAGES = (storage.errors, reconstruction.errors, jobs.errors, ingest.errors, pacs.errors, spark_jobs.errors)


def error_classes():
    for module in PACKAGES:
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ == module.__name__:
                yield kind


@pytest.mark.parametrize("kind", list(error_classes()), ids=lambda kind: kind.__name__)
def test_every_error_of_ours_has_an_exit_code(kind):
    assert exit_code_of(kind("x")) in (2, 3, 4, 5, 6, 130)


def test_the_table_of_exit_codes():
    """What scripts rely on; a change here is a change of the interface."""
    assert {kind.__name__: code for kind, code in EXIT_CODES} == {
        "SettingError": 2, "NotImportedError": 3, "RegionsDisagreeError": 6, "CannotListenError": 4,
        "JobFailedError": 6, "JobCancelledError": 7, "WaitedTooLongError": 4, "JobStoppedError": 130,
        "KindUnavailableError": 4, "JobError": 3, "BackupError": 3,
        "ClusterOptionsError": 2, "UnknownDaemonError": 2, "DrainError": 6, "ClusterError": 4,
        "ChunkCorruptError": 5, "BandCorruptError": 5, "ChecksumError": 5, "PackError": 5, "TaskFailedError": 6,
        "SessionError": 4, "BackendUnavailableError": 4, "StoreUrlError": 3, "DatabaseError": 4, "StorageError": 4,
        "IndexUnavailableError": 4, "PeerError": 4, "InstanceNotFoundError": 3, "IngestError": 3,
        "ReconstructionError": 3, "SparkJobError": 3, "PacsError": 3,
    }  # fmt: skip
    assert exit_code_of(ZeroDivisionError()) is None


@pytest.fixture
def failing(monkeypatch, working_folder):
    """Make `conepacs inspect` raise what a test wants."""
    (working_folder / "conepacs-store").mkdir()

    def fail_with(error):
        def raise_it(*_):
            raise error

        monkeypatch.setattr(cli.inspect, "_list_scans", raise_it)

    return fail_with


def test_an_expected_error_is_one_sentence(failing, capsys):
    failing(ingest.errors.ChunkCorruptError("file x of scan y is damaged"))
    outcome = conepacs(capsys, "inspect")
    outcome.failed_with(5, "conepacs: file x of scan y is damaged")


def test_an_unexpected_error_apologizes_and_keeps_the_traceback(failing, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    failing(ZeroDivisionError("nothing to divide by"))
    outcome = conepacs(capsys, "inspect")
    assert outcome.code == 70
    apology, where = outcome.err.splitlines()
    assert apology == "conepacs: sorry, this is a fault of the program: ZeroDivisionError: nothing to divide by"
    (log,) = tmp_path.glob("conepacs-error-*.log")
    assert where.endswith(f" is in {log}")
    assert "Traceback" in log.read_text()
    assert "raise_it" in log.read_text()


def test_a_package_of_another_role_is_named(failing, capsys):
    failing(ModuleNotFoundError("No module named 'pyspark'", name="pyspark"))
    conepacs(capsys, "inspect").failed_with(4, "this needs the package pyspark", "conepacs doctor")


def test_an_unexpected_error_is_shown_with_verbose(failing, capsys, caplog, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(logging.getLogger(), "level", logging.WARNING)
    failing(ZeroDivisionError("nothing to divide by"))
    assert conepacs(capsys, "--verbose", "inspect").code == 70
    assert "raise_it" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()], ids=["Ctrl-C", "abort"])
def test_an_interrupt_is_no_traceback(failing, capsys, error):
    failing(error)
    conepacs(capsys, "inspect").failed_with(130, "interrupted")


def test_a_verb_loads_only_what_it_needs(tmp_path):
    """The command starts quickly: `--version` loads neither arrays nor servers."""
    program = "import sys; from cli.main import run; run(['--version']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[1]
    for heavy in ("'numpy'", "'pyarrow'", "'pyspark'", "'pydicom'", "'fastapi'", "'sqlalchemy'", "'numba'"):
        assert heavy not in loaded


def test_the_installed_command_runs_as_a_process(tmp_path):
    outcome = conepacs_apart("inspect", "nothing.mib", folder=tmp_path)
    outcome.failed_with(3, "no file or folder nothing.mib")
    assert run(["--version"]) == 0
