# SPDX-License-Identifier: Apache-2.0
"""Settings: conf/local.toml, conepacs.toml, the environment, options; a typo is refused with its place."""

from __future__ import annotations

import dataclasses
import tomllib

import pytest

from cli.errors import SettingError
from cli.job_settings import JobSettings
from cli.pacs_settings import PacsSettings
from cli.serve_settings import ServeSettings
from cli.settings import SECTIONS, StoreSettings, load
from cli.work_settings import WorkSettings
from pacs.scp import MoveDestination, ScpConfig
from spark_jobs.running.runner_settings import RunnerSettings
from spark_jobs.running.settings import SparkSettings
from tests.support.command_line import conepacs
from tests.support.peers import REPOSITORY
from viewer_api.settings import HttpSettings

LOCAL = REPOSITORY / "conf" / "local.toml"
PROGRAMS = (StoreSettings, JobSettings, WorkSettings, PacsSettings, ServeSettings)


def load_all():
    for program in PROGRAMS:
        load(program)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_every_program_loads_the_sample_file_and_it_holds_the_defaults(program, monkeypatch):
    plain = load(program)
    monkeypatch.setenv("CONEPACS_CONFIG", str(LOCAL))
    assert load(program) == plain


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_every_program_loads_the_file_for_a_cluster(program, monkeypatch):
    monkeypatch.setenv("CONEPACS_CONFIG", str(LOCAL.with_name("cluster.toml")))
    assert load(program).store == "hdfs://pacs/archive"


def test_the_sample_file_has_every_section():
    values = tomllib.loads(LOCAL.read_text(encoding="utf-8"))
    assert set(values) == set(SECTIONS)
    sections = {"spark": SparkSettings, "scp": ScpConfig, "http": HttpSettings, "runner": RunnerSettings}
    for name, kind in sections.items():
        assert set(values[name]) <= {field.name for field in dataclasses.fields(kind)}


def test_the_environment_wins_over_the_file_and_an_option_over_both(working_folder, monkeypatch):
    (working_folder / "conepacs.toml").write_text(
        'store = "from-file"\nindex = "i.sqlite"\n[spark]\nmaster = "local[3]"\ntask_tries = 2\n'
        '[scp.move_destinations]\nVIEWER = { host = "viewer", port = 104 }\n'
    )
    assert load(StoreSettings).store == "from-file"
    monkeypatch.setenv("CONEPACS_STORE", "from-environment")
    monkeypatch.setenv("CONEPACS_SPARK__MASTER", "local[7]")
    settings = load(JobSettings)
    assert (settings.store, settings.index) == ("from-environment", "i.sqlite")
    assert (settings.spark.master, settings.spark.task_tries) == ("local[7]", 2)
    assert load(JobSettings, store="from-option", index=None).store == "from-option"
    assert load(PacsSettings).scp.move_destinations == {"VIEWER": MoveDestination("viewer", 104)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('stroe = "x"', ["conepacs.toml", "unknown setting 'stroe'", "store, index, spark"]),
        ("[sparks]\n", ["conepacs.toml", "unknown setting 'sparks'"]),
        ("[spark]\nmastr = 'x'", ["conepacs.toml", "'spark.mastr' is unknown"]),
        ("[scp]\nprot = 104", ["conepacs.toml", "'scp.prot' is unknown"]),
        ("[scp]\nport = 'many'", ["conepacs.toml", "'scp.port' is wrong", "integer"]),
        ("[scp]\nport = 70000", ["conepacs.toml", "'scp' is wrong: port is 70000, expected 0 to 65535"]),
        ("[scp.move_destinations]\nV = { host = 'h' }", ["'scp.move_destinations.V.port' is wrong: field required"]),
        ("[http]\nprot = 80", ["conepacs.toml", "'http.prot' is unknown"]),
        ("[http]\nport = -1", ["conepacs.toml", "port is -1"]),
        ("[runner]\njob = 2", ["conepacs.toml", "'runner.job' is unknown"]),
        ("[runner]\njobs = 0", ["conepacs.toml", "'runner' is wrong: a runner works at least one job", "jobs = 0"]),
        ("[journal]\nfolders = ''", ["conepacs.toml", "'journal.folders' is unknown"]),
        ("[spark]\ntask_tries = 0", ["conepacs.toml", "must be at least 1"]),
        ("store = [", ["conepacs.toml is no TOML"]),
        ("store = 7", ["conepacs.toml", "'store' is wrong", "string"]),
    ],
)
def test_a_typo_in_the_file_is_refused_with_key_and_file(text, words, working_folder):
    (working_folder / "conepacs.toml").write_text(text)
    with pytest.raises(SettingError) as caught:
        load_all()
    for word in words:
        assert word in str(caught.value)


def test_sections_of_other_programs_are_left_to_them(working_folder):
    (working_folder / "conepacs.toml").write_text("[spark]\nmastr = 'x'")
    load(StoreSettings)


def test_a_wrong_value_of_the_environment_names_its_variable(monkeypatch):
    monkeypatch.setenv("CONEPACS_SCP__PORT", "many")
    with pytest.raises(SettingError, match=r"environment variable CONEPACS_SCP__PORT: setting 'scp\.port' is wrong"):
        load(PacsSettings)
    monkeypatch.delenv("CONEPACS_SCP__PORT")
    monkeypatch.setenv("CONEPACS_SCP__PROT", "104")
    with pytest.raises(SettingError, match=r"CONEPACS_SCP__PROT: setting 'scp\.prot' is unknown"):
        load(PacsSettings)


def test_a_named_file_must_be_there(monkeypatch):
    monkeypatch.setenv("CONEPACS_CONFIG", "nowhere.toml")
    with pytest.raises(SettingError, match=r"CONEPACS_CONFIG names nowhere\.toml, which is no file"):
        load(StoreSettings)


def test_the_command_says_it_in_one_line(working_folder, capsys):
    (working_folder / "conepacs.toml").write_text("[http]\nport = -1")
    conepacs(capsys, "serve").failed_with(2, "conepacs.toml", "port is -1")
