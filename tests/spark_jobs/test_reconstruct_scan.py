# SPDX-License-Identifier: Apache-2.0
"""The main job on Spark: the same bytes whatever happens to its tasks, and all of a series or nothing."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest

from pacs.index import Query
from pacs.pack import read_entry
from spark_jobs.errors import SparkJobError, TaskFailedError
from spark_jobs.planning.request import ReconstructionRequest
from spark_jobs.run_files.packs import sweep_packs, sweep_submits
from spark_jobs.running.reconstruct_scan import reconstruct_scan
from tests.support.index_engine import sqlite_index
from tests.support.local_run import store_sample
from tests.support.peers import REPOSITORY
from tests.support.reconstruct_alone import start_alone
from tests.support.spark_archive import SCAN_ID, WANTED, archive_at
from tests.support.waiting import wait_until

pytestmark = pytest.mark.spark

N_SLICES, N_PREVIEWS = 45, 23
REQUEST = {"scan_id": SCAN_ID, **WANTED}


@pytest.fixture(scope="module")
def sample_store(tmp_path_factory):
    """A folder with an uploaded sample scan, to be copied."""
    folder = tmp_path_factory.mktemp("sample")
    store_sample(folder / "source", (folder / "store").as_uri())
    return folder / "store"


@pytest.fixture(scope="module")
def archive(sample_store, tmp_path_factory, spark_session):
    """An archive for all tests that leave alone what is registered."""
    folder = tmp_path_factory.mktemp("archive")
    shutil.copytree(sample_store, folder / "store")
    with sqlite_index(folder / "index.sqlite") as index:
        yield archive_at(folder, index, spark_session)


@pytest.fixture
def fresh(sample_store, tmp_path, spark_session):
    """An archive of one test."""
    shutil.copytree(sample_store, tmp_path / "store")
    with sqlite_index(tmp_path / "index.sqlite") as index:
        yield archive_at(tmp_path, index, spark_session)


@pytest.fixture(scope="module")
def done(archive):
    """The first run on two workers."""
    return archive.reconstruct()


def volumes(result):
    return [series.volume_sha256 for series in result.series]


def test_both_bins_become_series_that_are_found_and_read(archive, done):
    assert done.outcomes == {"added": 2 * (N_SLICES + N_PREVIEWS), "identical": 0, "version": 0}
    assert not done.unchanged
    assert [series.n_instances for series in done.series] == [N_SLICES, N_PREVIEWS] * 2
    assert len({series.series_uid for series in done.series}) == 4
    assert [len(digest) for digest in volumes(done)] == [64, 0, 64, 0]
    found = archive.index.find(Query("SERIES", wanted=("NumberOfSeriesRelatedInstances", "SeriesDescription")), limit=9)
    assert {row["SeriesInstanceUID"] for row in found} == {series.series_uid for series in done.series}
    assert not [row for row in found if "ram-lak" in row["SeriesDescription"]]  # the default filter is not named
    assert len(archive.part10(done)) == 2 * (N_SLICES + N_PREVIEWS)


def test_the_report_says_what_was_done(archive, done):
    report = json.loads(archive.store.read_bytes(done.report_path))
    assert report == json.loads(json.dumps(done.report))
    assert report["run"] == done.run_name
    assert len(report["tasks"]) == 6
    assert report["peak_memory_mib"]["reconstruct"] < report["peak_memory_mib"]["planned"]
    assert report["peak_memory_mib"]["prepare"] < report["peak_memory_mib"]["planned"]
    assert report["gups"]["per_task"] > 0
    assert {"stage prepare", "stage reconstruct", "session", "register", "whole"} <= set(report["seconds"])
    assert "pyspark" in report["versions"]
    page = archive.store.read_bytes(done.report_path.replace(".json", ".html")).decode()
    assert done.run_name in page


def test_a_rerun_computes_nothing_and_says_so(archive, done):
    packs = archive.packs()
    request = ReconstructionRequest(SCAN_ID, **WANTED)
    again = reconstruct_scan(
        archive.store, archive.index, request, session=lambda: pytest.fail("Spark was started for nothing")
    )
    assert again.unchanged
    assert again.outcomes == {"identical": 2 * (N_SLICES + N_PREVIEWS)}
    assert {s.series_uid: s.n_instances for s in again.series} == {s.series_uid: s.n_instances for s in done.series}
    assert again.report_path == done.report_path
    assert archive.packs() == packs


def all_identical(archive, done, result):
    assert result.outcomes == {"added": 0, "identical": 2 * (N_SLICES + N_PREVIEWS), "version": 0}
    assert result.unchanged
    assert volumes(result) == volumes(done)
    assert result.series == done.series


def test_a_task_that_fails_once_changes_no_byte(archive, done):
    from tests.support.spark_session import fails_once

    all_identical(archive, done, archive.reconstruct(again=True, slab_work=fails_once))


def test_a_worker_that_is_killed_changes_no_byte(archive, done):
    from tests.support.spark_session import killed_once

    all_identical(archive, done, archive.reconstruct(again=True, slab_work=killed_once))


def test_one_worker_gives_the_same_bytes(archive, done):
    told = json.loads(alone(archive.folder, "local[1]", "reconstruct_slab", again=True))
    assert told["outcomes"] == {"added": 0, "identical": 2 * (N_SLICES + N_PREVIEWS), "version": 0}
    assert told["volumes"] == volumes(done)


def test_orphaned_packs_are_swept_and_all_instances_stay(archive, done):
    """What retries and reruns of the tests above left."""
    archive.reconstruct(again=True, bins=(0,))
    packs = archive.packs()
    assert sweep_packs(archive.store, archive.index, older_than_s=3600) == []
    swept = sweep_packs(archive.store, archive.index, older_than_s=-5)
    assert len(swept) == len(packs) - 6
    assert len(archive.part10(done)) == 2 * (N_SLICES + N_PREVIEWS)


def test_two_stages_agree_within_rounding_and_leave_no_bands(archive, done):
    staged = archive.reconstruct(mode="two_stage", bins=(1,), run_id="two stages")
    assert staged.run_name != done.run_name
    assert staged.outcomes["added"] == N_SLICES + N_PREVIEWS
    assert folders_of(archive, staged.run_name) == ["done"]
    assert staged.report["bytes"]["bands_written"] > 0
    assert staged.report["peak_memory_mib"]["filter"] < staged.report["peak_memory_mib"]["planned"]
    ours, theirs = stored_values(archive, staged.series[0]), stored_values(archive, done.series[2])
    assert ours.shape == theirs.shape == (N_SLICES, 62, 62)
    assert int(np.abs(ours - theirs).max()) <= 1  # of 65536 steps: the last bit of a float32 now and then
    assert int(np.ptp(ours)) > 5000


def folders_of(archive, run_name):
    """Folders of a run."""
    entries = archive.store.list_folder(f"runs/{run_name}")
    return [entry.path.rpartition("/")[2] for entry in entries if entry.is_folder]


def stored_values(archive, series):
    """Stored values of a series, (z, y, x) int64."""
    records = archive.index.instances(series_uids=[series.series_uid])
    datasets = [pydicom.dcmread(io.BytesIO(read_entry(archive.store, record.location))) for record in records]
    assert [int(ds.InstanceNumber) for ds in datasets] == list(range(1, len(datasets) + 1))
    return np.stack([ds.pixel_array for ds in datasets]).astype(np.int64)


def test_a_second_run_id_makes_a_second_result(archive, done):
    second = archive.reconstruct(run_id="second", bins=(0,))
    assert second.outcomes["added"] == N_SLICES + N_PREVIEWS
    assert {s.series_uid for s in second.series}.isdisjoint(s.series_uid for s in done.series)
    assert second.series[0].volume_sha256 == done.series[0].volume_sha256
    assert second.study_uid == done.study_uid


def test_bins_of_one_run_can_come_one_after_the_other(fresh):
    first = fresh.reconstruct(bins=(1,))
    assert first.outcomes["added"] == N_SLICES + N_PREVIEWS
    both = fresh.reconstruct()
    assert both.run_name == first.run_name
    assert both.outcomes == {"added": N_SLICES + N_PREVIEWS, "identical": N_SLICES + N_PREVIEWS, "version": 0}
    assert both.series[2:] == first.series


@pytest.mark.parametrize("mode", ["fused", "two_stage"])
def test_two_submits_at_once_agree_on_dates_and_ranges(fresh, mode):
    """The second submit begins and ends while the first one starts Spark."""

    def start_late():
        assert fresh.reconstruct(bins=(1,), mode=mode).outcomes["added"] == N_SLICES + N_PREVIEWS
        time.sleep(1.1)  # times in a header are told in seconds
        return fresh.spark

    request = ReconstructionRequest(SCAN_ID, **WANTED, mode=mode)
    first = reconstruct_scan(fresh.store, fresh.index, request, session=start_late)
    assert first.outcomes == {"added": N_SLICES + N_PREVIEWS, "identical": N_SLICES + N_PREVIEWS, "version": 0}


@pytest.mark.parametrize(
    ("work", "words"),
    [("fails_always", "disk 7 of node 3 is gone"), ("killed_always", "a worker ended without a word")],
)
def test_a_task_that_fails_for_good_registers_nothing(fresh, work, words):
    from tests.support import spark_session as support

    with pytest.raises(TaskFailedError, match=f"^stage 'reconstruct' failed: .*{words}") as caught:
        fresh.reconstruct(bins=(0,), slab_work=getattr(support, work))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert fresh.index.find(Query("SERIES"), limit=9) == []
    run = fresh.store.list_folder("runs")[0].path
    assert folders_of(fresh, run.rpartition("/")[2]) == ["done"]
    assert fresh.reconstruct(bins=(0,)).outcomes["added"] == N_SLICES + N_PREVIEWS


def test_what_no_retry_cures_ends_the_job_at_once(fresh):
    """A damaged chunk file: one sentence that names it."""
    folder = fresh.folder / "store" / "scans" / SCAN_ID
    path = next(folder.glob("projections-bin00*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(SparkJobError, match=rf"^scan {SCAN_ID}, bin 0, view block \d, file {path.name}") as caught:
        fresh.reconstruct(mu_range=(-1.0, 2.0))
    assert not isinstance(caught.value, TaskFailedError)
    assert "\n" not in str(caught.value)
    assert fresh.index.find(Query("SERIES"), limit=9) == []


def test_a_killed_reconstruction_reruns_to_the_same_bytes(fresh, tmp_path):
    """The whole job dies in its last stage; the rerun makes what an undisturbed run would have made."""
    process = start_alone(fresh.folder, "local[1]", "never_ends", request=REQUEST)
    try:
        wait_until("the first pack is there", fresh.packs, lambda packs: bool(_whole(packs)), timeout_s=200)
    finally:
        kill_session(process)
    assert fresh.index.find(Query("SERIES"), limit=9) == []
    run = next(iter(fresh.store.list_folder("runs"))).path
    record = fresh.store.read_bytes(f"{run}/run.json")
    result = fresh.reconstruct()
    assert fresh.store.read_bytes(f"{run}/run.json") == record  # dates and ranges are those of the first submit
    assert result.outcomes["added"] == 2 * (N_SLICES + N_PREVIEWS)
    assert len(fresh.index.find(Query("SERIES"), limit=9)) == 4
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(fresh.folder / "store" / "scans", undisturbed / "store" / "scans")
    (undisturbed / "store" / run).mkdir(parents=True)
    (undisturbed / "store" / run / "run.json").write_bytes(record)
    with sqlite_index(undisturbed / "index.sqlite") as index:
        other = archive_at(undisturbed, index, fresh.spark)
        expected = other.reconstruct()
        assert other.part10(expected) == fresh.part10(result)
    assert volumes(expected) == volumes(result)
    sweep_packs(fresh.store, fresh.index, older_than_s=-5)
    assert len(fresh.packs()) == 6
    assert len(sweep_submits(fresh.store, older_than_s=-5)) == 1


def test_the_driver_stays_small_however_large_the_scan(tmp_path):
    """Planning, results, registration and report of a body-sized scan; no pixel and no voxel passes the driver."""
    command = [sys.executable, "-m", "tests.support.driver_alone", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True)
    told = json.loads(done.stdout)
    assert told["tasks"] > 2000
    assert told["added"] == 20_000
    assert told["peak_bytes"] < 500e6


def test_progress_is_told_for_each_stage(archive, done):
    seen = []
    request = ReconstructionRequest(SCAN_ID, **WANTED, bins=(0,))
    reconstruct_scan(
        archive.store, archive.index, request, session=lambda: archive.spark, again=True,
        progress=lambda *step: seen.append(step),
    )  # fmt: skip
    assert seen[0] == ("prepare", 0, 1)
    assert ("prepare", 1, 1) in seen
    assert seen[-1] == ("reconstruct", 3, 3)


def _whole(packs):
    return [path for path in packs if path.endswith(".zip")]


def alone(folder, master, work, *, again):
    """Run the main job in a process of its own; what it printed."""
    process = start_alone(folder, master, work, request=REQUEST, again=again)
    try:
        printed, _ = process.communicate(timeout=240)
    finally:
        kill_session(process)
    assert process.returncode == 0, (folder / "alone.log").read_text()[-3000:]
    return printed


def kill_session(process):
    """Kill a process and all that it started (the JVM, the workers), as when a machine dies."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == process.pid:
            os.kill(int(entry.name), signal.SIGKILL)
    process.wait(30)
    if process.stdout is not None:
        process.stdout.close()
