# SPDX-License-Identifier: Apache-2.0
"""The log: one object a line with its ids, where the settings say, without the words of foreign errors."""

from __future__ import annotations

import json
import logging
import threading
import warnings
from typing import TYPE_CHECKING

import pytest

from cli.logs import LogConfig, set_up_logging
from storage.log_context import current_log_ids, in_log_context, log_context
from tests.support.command_line import conepacs, conepacs_apart

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG = logging.getLogger("pacs.somewhere")
NAME = "Beispiel^Berta"


@pytest.fixture(autouse=True)
def plain_logging() -> Iterator[None]:
    """Leave the loggers as they were."""
    names = ("", "pacs", "storage", "pydicom", "pynetdicom", "py4j")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        yield
    root = logging.getLogger()
    for handler in [each for each in root.handlers if each.name == "conepacs"]:
        root.removeHandler(handler)
        handler.close()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def lines_of(capsys):
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_is_one_object_with_the_ids_of_its_contexts(capsys):
    set_up_logging(LogConfig("debug", "json"), ["pacs"])
    with log_context(scan_id="stone", job_id=7), log_context(run="stone-a1", worker="host:12"):
        LOG.debug("slab %d\nof %s", 3, "all")
    LOG.warning("outside")
    first, second = lines_of(capsys)
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "debug", "logger": "pacs.somewhere", "message": "slab 3\nof all", "scan_id": "stone", "job_id": 7,
        "run": "stone-a1", "worker": "host:12",
    }  # fmt: skip
    assert set(second) == {"time", "level", "logger", "message"}


def test_text_is_one_line_whatever_the_message_holds(capsys):
    set_up_logging(LogConfig("info"), ["pacs"])
    with log_context(scan_id="stone"):
        LOG.info("first\nsecond")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("info pacs.somewhere: first\\nsecond [scan_id=stone]")


@pytest.mark.parametrize("form", ["json", "text"])
def test_an_exception_tells_where_not_what(form, capsys):
    set_up_logging(LogConfig(format=form), ["pacs"])
    try:
        try:
            raise ValueError(NAME)
        except ValueError as error:
            raise RuntimeError(f"of {NAME}") from error
    except RuntimeError:
        LOG.exception("failed")
    said = capsys.readouterr().err
    assert NAME not in said
    assert "builtins.RuntimeError" in said
    assert "builtins.ValueError" in said
    assert "test_an_exception_tells_where_not_what" in said


def test_warnings_of_libraries_and_loggers_that_quote_are_kept_short(capsys):
    set_up_logging(LogConfig("debug", "json"), ["pacs"])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"value {NAME}", UserWarning, stacklevel=1)
    logging.getLogger("pydicom").error("value %s", NAME)
    logging.getLogger("pynetdicom.acse").error("value %s", NAME)
    logging.getLogger("urllib3").info("GET ?PatientName=%s", NAME)
    (line,) = lines_of(capsys)
    assert line["message"].startswith("UserWarning at cli/test_logs.py:")


def test_a_file_that_is_full_is_set_aside(tmp_path, capsys):
    set_up_logging(LogConfig("info", "json", str(tmp_path / "log" / "conepacs.log"), 1000, 2), ["pacs"])
    for number in range(40):
        LOG.info("line %d of a log that grows", number)
    assert capsys.readouterr().err == ""
    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == [
        "conepacs.log", "conepacs.log.1", "conepacs.log.2",
    ]  # fmt: skip
    for path in (tmp_path / "log").iterdir():
        assert path.stat().st_size <= 1000
        assert [json.loads(line) for line in path.read_text().splitlines()]


def test_threads_take_the_ids_over_when_bound():
    found = []
    with log_context(scan_id="stone"):
        for work in (found.append, in_log_context(found.append)):
            thread = threading.Thread(target=lambda work=work: work(None) or found.append(current_log_ids()))
            thread.start()
            thread.join()
        bound = in_log_context(lambda: found.append(current_log_ids()))
    thread = threading.Thread(target=bound)
    thread.start()
    thread.join()
    assert found[-1] == {"scan_id": "stone"}
    assert found[1] == {}
    assert current_log_ids() == {}


def test_setting_up_again_takes_the_place_of_the_first(capsys):
    for _ in range(3):
        set_up_logging(LogConfig(format="json"), ["pacs"])
    LOG.warning("once")
    assert len(lines_of(capsys)) == 1


def test_every_verb_takes_the_settings_and_the_options(working_folder, capsys):
    (working_folder / "conepacs.toml").write_text('[log]\nlevel = "info"\nformat = "json"\nfile = "from-file.log"\n')
    assert conepacs(capsys, "inspect", "nowhere").code != 0
    (line,) = map(json.loads, (working_folder / "from-file.log").read_text().splitlines())
    assert line["message"].startswith("ends with exit code")
    assert conepacs(capsys, "--log-file", "given.log", "inspect", "nowhere").code != 0
    assert (working_folder / "given.log").exists()
    outcome = conepacs_apart("--log-format", "json", "-v", "inspect", "nowhere", folder=working_folder.parent)
    assert json.loads(outcome.err.splitlines()[0])["logger"] == "cli.main"


def test_wrong_settings_are_refused_but_help_is_given(working_folder, capsys):
    (working_folder / "conepacs.toml").write_text('[log]\nformat = "xml"\n')
    conepacs(capsys, "inspect", "nowhere").failed_with(2, "conepacs.toml", "log.format")
    assert conepacs(capsys, "inspect", "--help").code == 0
    (working_folder / "conepacs.toml").write_text('[log]\nfile = "conepacs.toml/log"\n')
    conepacs(capsys, "inspect", "nowhere").failed_with(2, "cannot be written")
