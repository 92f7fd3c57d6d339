# SPDX-License-Identifier: Apache-2.0
"""A job that was stopped, or failed, goes on where it was, and comes to the same bytes."""

import shutil
import threading

import pytest

from pacs.errors import IndexUnavailableError, PackError
from spark_jobs.errors import JobStoppedError, SparkJobError
from spark_jobs.run_files.packs import stopped_marks, sweep_store
from tests.support.index_engine import sqlite_index
from tests.support.local_run import store_sample
from tests.support.spark_archive import archive_at

pytestmark = pytest.mark.spark

N_SLABS = 6
N_INSTANCES = 2 * (45 + 23)


@pytest.fixture(scope="module")
def sample_store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    store_sample(folder / "source", (folder / "store").as_uri())
    return folder / "store"


@pytest.fixture
def archive(sample_store, tmp_path, spark_session):
    shutil.copytree(sample_store, tmp_path / "store")
    with sqlite_index(tmp_path / "index.sqlite") as index:
        yield archive_at(tmp_path, index, spark_session)


def entries(archive, run_name, folder=""):
    """Names of what lies in a run's folder."""
    place = f"runs/{run_name}/{folder}".rstrip("/")
    return sorted(entry.path.rpartition("/")[2] for entry in archive.store.list_folder(place))


def run_of(archive):
    (run,) = archive.store.list_folder("runs")
    return run.path.rpartition("/")[2]


def stop_after_two(archive, **wanted):
    """Stop a job once two slabs are finished; what the job said."""
    from tests.support.spark_session import stays_from_two

    def two_are_done():
        runs = archive.store.list_folder("runs")
        return bool(runs) and len(archive.store.list_folder(f"{runs[0].path}/done")) == 2

    with pytest.raises(JobStoppedError) as caught:
        archive.reconstruct(slab_work=stays_from_two, options={"should_stop": two_are_done}, **wanted)
    return str(caught.value)


@pytest.fixture(scope="module")
def stopped_store(sample_store, tmp_path_factory, spark_session):
    """A store that a job in two stages left when it was stopped, and what that job said."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copytree(sample_store, folder / "store")
    with sqlite_index(folder / "index.sqlite") as index:
        said = stop_after_two(archive_at(folder, index, spark_session), mode="two_stage")
    return folder / "store", said


@pytest.fixture
def stopped(stopped_store, tmp_path, spark_session):
    """A copy of it, and an index as empty as that of the stopped job."""
    shutil.copytree(stopped_store[0], tmp_path / "stopped" / "store")
    with sqlite_index(tmp_path / "stopped" / "index.sqlite") as index:
        yield archive_at(tmp_path / "stopped", index, spark_session)


@pytest.mark.parametrize("mode", ["fused", "two_stage"])
def test_a_stopped_job_goes_on_with_what_is_finished(request, stopped_store, mode):
    from tests.support.spark_session import not_the_first_two

    if mode == "two_stage":
        archive, said = request.getfixturevalue("stopped"), stopped_store[1]
    else:
        archive = request.getfixturevalue("archive")
        said = stop_after_two(archive, mode=mode)
    assert said == "scan sample-marker: stopped after 2 of 6 slabs; the same request goes on there"
    run = run_of(archive)
    assert len(stopped_marks(archive.store, f"runs/{run}")) == 1
    assert [name for name in entries(archive, run) if name.startswith("submit-")] == []
    bands = [name for name in entries(archive, run) if name.startswith("bands-")]
    assert len(bands) == (2 if mode == "two_stage" else 0)
    assert [name for name in entries(archive, run) if name.startswith("white-")] == [
        "white-bin00.rows", "white-bin01.rows",
    ]  # fmt: skip
    seen = []
    told = {"progress": lambda *step: seen.append(step)}
    result = archive.reconstruct(slab_work=not_the_first_two, mode=mode, options=told)
    assert result.outcomes == {"added": N_INSTANCES, "identical": 0, "version": 0}
    assert result.report["reused_tasks"] == {
        "prepare": 2, "reconstruct": 2, **({"filter": 16} if mode == "two_stage" else {}),
    }  # fmt: skip
    assert [task["reused"] for task in result.report["tasks"]] == [True] * 2 + [False] * 4
    assert ("prepare", 2, 2) in seen
    assert ("reconstruct", 2, N_SLABS) in seen
    assert seen[-1] == ("reconstruct", N_SLABS, N_SLABS)
    assert len(archive.packs()) == N_SLABS
    left = ["done", "plan.json", "report.html", "report.json", "run-bin00.json", "run-bin01.json", "run.json"]
    assert [name for name in entries(archive, run) if not name.startswith("bad-pixels")] == left
    # All of it anew, from nothing that was finished.
    again = archive.reconstruct(again=True, mode=mode)
    assert again.outcomes == {"added": 0, "identical": N_INSTANCES, "version": 0}
    assert again.series == result.series
    assert again.report["reused_tasks"]["reconstruct"] == 0
    assert [name for name in entries(archive, run) if not name.startswith("bad-pixels")] == left


def test_a_short_pack_a_lost_band_and_a_lost_white_are_made_again(stopped):
    archive = stopped
    run = run_of(archive)
    pack = archive.folder / "store" / archive.packs()[0]
    pack.write_bytes(pack.read_bytes()[:-1])
    band = next((archive.folder / "store" / "runs" / run).glob("bands-*-bin01/*.band"))
    band.unlink()
    (archive.folder / "store" / "runs" / run / "white-bin01.rows").unlink()
    result = archive.reconstruct(mode="two_stage")
    assert result.report["reused_tasks"] == {"prepare": 1, "filter": 15, "reconstruct": 1}
    assert archive.reconstruct(mode="two_stage", again=True).outcomes["identical"] == N_INSTANCES


def test_a_damaged_band_fails_once_and_is_made_again(stopped):
    archive = stopped
    for band in (archive.folder / "store" / "runs" / run_of(archive)).glob("bands-*-bin01/*.band"):
        content = bytearray(band.read_bytes())
        content[len(content) // 2] ^= 1
        band.write_bytes(bytes(content))
    with pytest.raises(SparkJobError, match="does not have its checksum"):
        archive.reconstruct(mode="two_stage")
    result = archive.reconstruct(mode="two_stage")
    assert result.report["reused_tasks"]["filter"] < 16
    assert result.report["reused_tasks"]["reconstruct"] >= 2
    assert archive.reconstruct(mode="two_stage", again=True).outcomes["identical"] == N_INSTANCES


def down(*_, **__):
    raise IndexUnavailableError("the index does not answer")


def test_when_only_the_registration_failed_no_spark_is_needed(archive, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(archive.index, "register", down)
        with pytest.raises(IndexUnavailableError):
            archive.reconstruct()
    assert len(stopped_marks(archive.store, f"runs/{run_of(archive)}")) == 1
    result = archive.reconstruct(options={"session": lambda: pytest.fail("Spark was started for nothing")})
    assert result.outcomes["added"] == N_INSTANCES
    assert result.report["reused_tasks"] == {"prepare": 2, "reconstruct": N_SLABS}
    assert result.report["seconds"]["session"] == 0


def test_a_damaged_pack_is_told_once_and_made_again(archive, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(archive.index, "register", down)
        with pytest.raises(IndexUnavailableError):
            archive.reconstruct(bins=(0,))
    pack = archive.folder / "store" / archive.packs()[1]
    content = bytearray(pack.read_bytes())
    content[-200:] = bytes(200)
    pack.write_bytes(bytes(content))
    with pytest.raises(PackError, match=pack.name):
        archive.reconstruct(bins=(0,))
    result = archive.reconstruct(bins=(0,))
    assert result.report["reused_tasks"]["reconstruct"] == 2
    assert result.outcomes["added"] == N_INSTANCES // 2


def test_a_job_that_was_told_to_stop_before_it_began_computes_nothing(archive):
    with pytest.raises(JobStoppedError, match="stopped after 0 of 6 slabs"):
        archive.reconstruct(
            options={"should_stop": lambda: True, "session": lambda: pytest.fail("Spark was started for nothing")}
        )
    assert archive.packs() == []


def test_an_error_of_who_is_asked_whether_to_stop_is_passed_on(archive):
    from tests.support.spark_session import stays_from_two

    def lost():
        if threading.current_thread() is not threading.main_thread():
            raise IndexUnavailableError("the queue does not answer")
        return False

    with pytest.raises(IndexUnavailableError, match="the queue does not answer"):
        archive.reconstruct(slab_work=stays_from_two, options={"should_stop": lost})


def test_what_a_stopped_job_left_is_swept_after_the_grace_time(stopped):
    archive = stopped
    archive.reconstruct(bins=(0,), run_id="another")  # an index without any instance sweeps nothing
    before = archive.packs()
    assert sweep_store(archive.store, archive.index, older_than_s=3600) == []
    sweep_store(archive.store, archive.index, older_than_s=-5)
    assert len(archive.packs()) == len(before) - 2
    assert archive.reconstruct(mode="two_stage").report["reused_tasks"] == {
        "prepare": 0, "filter": 0, "reconstruct": 0,
    }  # fmt: skip


def test_spark_is_told_of_once_it_started(archive):
    told = []
    result = archive.reconstruct(bins=(0,), options={"on_start": told.append})
    assert told == [""]  # without web pages
    assert result.ui_url == result.report["spark"]["ui_url"] == ""
    assert result.report["shuffle_bytes"] < 1e6
    assert result.report["spark"]["executor_run_s"] > 0
    assert result.report["spark"]["failed_tasks"] == 0
    assert result.report["over_memory"] == []
    prepare, slabs = result.report["stages"]
    assert (slabs["name"], slabs["tasks"], slabs["reused"], slabs["retried"]) == ("reconstruct", 3, 0, 0)
    assert slabs["written_bytes"] == result.report["bytes"]["packs_written"]
    assert slabs["writes"] == 3
    assert slabs["read_bytes"] > 10_000
    assert slabs["planned_read_bytes"] > 0
    assert prepare["reads"] > 0
