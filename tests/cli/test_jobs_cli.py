# SPDX-License-Identifier: Apache-2.0
"""`conepacs jobs`: submit, watch, steer and work off, by jobs that need no Spark."""

from __future__ import annotations

import getpass
import json
import re
import signal
import threading
import urllib.request

import pytest

from cli import job_output
from cli.archive import open_existing_store, open_queue
from cli.job_submit import submit_plan, submit_reconstruct
from cli.reconstruct import reconstruct
from jobs.records import Resources
from tests.support.command_line import conepacs, start_conepacs
from tests.support.waiting import wait_until

SCAN = "sample-marker"


@pytest.fixture
def store(sample_scan, working_folder, capsys):
    """The default store of the working folder, with a scan."""
    assert conepacs(capsys, "upload", sample_scan).code == 0
    return working_folder / "conepacs-store"


@pytest.fixture
def jobs(store, capsys):
    """Runs one of the verbs."""
    return lambda *arguments: conepacs(capsys, "jobs", *arguments)


@pytest.fixture
def queue(store):
    opened = open_queue(open_existing_store(str(store)))
    yield opened
    opened.close()


def shown(jobs, job_id):
    return json.loads(jobs("show", job_id, "--json").out)


def test_a_job_is_submitted_worked_off_and_waited_for(jobs):
    outcome = jobs("submit", "plan", SCAN, "--voxel", 0.5, "--bin", 1, "--priority", 2)
    assert (outcome.code, outcome.out) == (0, "job 1 is waiting\n")
    job = shown(jobs, 1)
    assert (job["kind"], job["user"], job["priority"]) == ("plan", getpass.getuser(), 2)
    assert (job["parameters"]["voxel_pitch_mm"], job["parameters"]["bins"]) == (0.5, [1])

    outcome = jobs("work", "--once", "--cores", 2)
    assert outcome.code == 0, outcome.err
    assert re.fullmatch(r"runner \S+ works; end it with Ctrl-C\nended; jobs: 1 done\n", outcome.out)
    assert (jobs("wait", 1).code, jobs("wait", 1).out) == (0, "job 1 is done\n")
    assert shown(jobs, 1)["result"]["voxel_pitch_mm"] == [0.5] * 3
    for words in ("job 1", "done", "with scan_id", SCAN, "result cost", "1 core(s)"):
        assert words in jobs("show", 1).out
    assert re.search(r"waiting\n.* running\n.* done\n", jobs("log", 1).out)
    assert [json.loads(line)["kind"] for line in jobs("log", 1, "--json").out.splitlines()] == ["state"] * 3


def test_the_options_of_reconstruct_are_the_parameters_of_its_job(jobs, queue):
    options = [
        "--bin", 0, "--voxel", 0.5, "--shape", "4,6,8", "--center", "0,1,2", "--field-radius", 3, "--filter", "hann",
        "--cutoff", 0.9, "--mode", "two_stage", "--band-type", "float16", "--slabs", 2, "--mu-range", "-1,2",
        "--task-memory", "1GiB", "--run-id", "second", "--again", "--cores", 2,
    ]  # fmt: skip
    assert jobs("submit", "reconstruct", SCAN, *options, "--user", "anna", "--attempts", 5).code == 0
    job = queue.get(1)
    assert job.parameters | {"four_fold": True} == job.parameters
    expected = {
        "scan_id": SCAN, "bins": [0], "voxel_pitch_mm": 0.5, "shape": [4, 6, 8], "center_mm": [0, 1, 2],
        "field_radius_mm": 3, "filter_window": "hann", "cutoff": 0.9, "mode": "two_stage", "band_type": "float16",
        "n_slabs": 2, "mu_range": [-1, 2], "task_memory_bytes": 1 << 30, "run_id": "second", "again": True, "cores": 2,
    }  # fmt: skip
    assert {name: job.parameters[name] for name in expected} == expected
    assert (job.user, job.max_attempts, job.resources) == ("anna", 5, Resources(2, 2 << 30))


def test_every_option_of_reconstruct_is_offered():
    asked = set(reconstruct.__annotations__) - {"scan_ids", "master", "spark_log", "probe", "return"}
    assert asked <= set(submit_reconstruct.__annotations__)
    assert asked - {"again"} <= set(submit_plan.__annotations__)


def test_any_kind_takes_plain_parameters_from_a_file_and_by_name(jobs, queue, working_folder):
    (working_folder / "stone.json").write_text(json.dumps({"scan_id": SCAN, "cutoff": 0.5, "bins": [0]}))
    outcome = jobs("submit", "reconstruct", "--parameters", "stone.json", "--set", "cutoff=0.9", "--set", "run_id=a=b")
    assert outcome.code == 0, outcome.err
    assert jobs("submit", "plan", f"--set=scan_id={SCAN}", "--set=bins=[0,1]", "--after", 1).code == 0
    first, second = queue.get(1).parameters, queue.get(2)
    assert (first["cutoff"], first["bins"], first["run_id"]) == (0.9, [0], "a=b")
    assert (second.parameters["bins"], second.depends_on) == ([0, 1], (1,))


def test_jobs_are_listed_and_steered(jobs, queue):
    for _ in range(3):
        jobs("submit", "plan", SCAN)
    assert jobs("priority", 2, 9).out == "job 2 has priority 9\n"
    assert jobs("cancel", 1, 3).out == "job 1 is cancelled\njob 3 is cancelled\n"
    assert jobs("retry", 3).out == "job 3 is waiting\n"
    table = [line.split()[:2] for line in jobs("list").out.splitlines()[2:]]
    assert table == [["3", "waiting"], ["2", "waiting"], ["1", "cancelled"]]
    listed = json.loads(jobs("list", "--state", "waiting", "--limit", 1, "--before", 3, "--json").out)
    assert [(job["job_id"], job["priority"]) for job in listed] == [(2, 9)]
    assert json.loads(jobs("list", "--user", "nobody", "--json").out) == []
    assert json.loads(jobs("list", "--kind", "reconstruct", "--json").out) == []
    job = queue.claim("r", kinds=["plan"], free=Resources(9), lease_s=60)
    assert jobs("cancel", job.job_id).out == f"job {job.job_id} is running, and being stopped\n"
    assert "running (to be cancelled)" in jobs("list").out
    assert "running, to be cancelled" in jobs("show", job.job_id).out


def test_old_jobs_are_swept(jobs, queue):
    for _ in range(2):
        jobs("submit", "plan", SCAN)
    jobs("cancel", 1)
    assert jobs("sweep").out == "0 job(s) deleted\n"
    assert jobs("sweep", "--older-than", "0s").out == "1 job(s) deleted\n"
    assert [job.job_id for job in queue.list()] == [2]


def test_kinds_are_listed_with_their_schemas(jobs):
    assert "reconstruct" in jobs("kinds").out
    kinds = {kind["name"]: kind["parameters"] for kind in json.loads(jobs("kinds", "--json").out)}
    assert set(kinds) == {"reconstruct", "plan", "preview", "sweep"}
    assert kinds["plan"]["required"] == ["scan_id"]


def test_the_outcome_of_a_job_is_the_exit_code_of_who_waits(jobs, queue, monkeypatch):
    monkeypatch.setattr(job_output, "LOOK_EVERY_S", 0.02)
    jobs("submit", "plan", "nowhere")
    assert "1 failed" in jobs("work", "--once").out
    jobs("wait", 1).failed_with(6, "job 1 failed: no scan 'nowhere' in")
    jobs("submit", "plan", SCAN)
    jobs("cancel", 2)
    jobs("wait", 2).failed_with(7, "job 2 was cancelled")
    jobs("submit", "plan", SCAN)
    jobs("wait", 3, "--timeout", "0.1s").failed_with(4, "job 3 is still waiting after 0.1 s")

    def work():
        job = wait_until("job 4", lambda: queue.claim("r", kinds=["plan"], free=Resources(9), lease_s=60))
        queue.finish(job.job_id, "r", job.attempt, {"n_tasks": 1})

    jobs("cancel", 3)
    worker = threading.Thread(target=work)
    worker.start()
    outcome = jobs("submit", "plan", SCAN, "--wait", "--json")
    worker.join()
    assert (outcome.code, json.loads(outcome.out)["result"]) == (0, {"n_tasks": 1})
    assert jobs("log", 4, "--follow").out.endswith(" done\n")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("show", 9), 3, "there is no job 9"),
        (("wait", 9), 3, "there is no job 9"),
        (("submit", "plan", SCAN, "--after", 9), 3, "there is no job 9"),
        (
            ("submit", "colour", "--set", "a=1"),
            3,
            "no kind of job is named 'colour'; there are plan, preview, reconstruct, sweep",
        ),
        (("submit", "plan", "--set", f"scan_id={SCAN}", "--set", "bans=1"), 3, "no parameter 'bans'"),
        (("submit", "plan", SCAN, "--filter", "box"), 3, "unknown filter window 'box'"),
        (("submit", "plan", "--parameters", "nowhere.json"), 2, "nowhere.json cannot be read"),
        (("submit", "plan", "--parameters", "list.json"), 2, "list.json holds a JSON list"),
        (("submit", "plan", "--parameters", "text.json"), 2, "text.json is no JSON"),
        (("submit", "plan", "--set", "scan_id"), 2, "NAME=VALUE"),
        (("list", "--state", "asleep"), 2, "--state is one of waiting, running, done, failed, cancelled, got 'asleep'"),
        (("wait", 1, "--timeout", "soon"), 2, "a duration is a number"),
        (("submit", "plan", SCAN, "--store", "nowhere"), 3, "does not exist"),
        (("retry", 1), 3, "cannot be retried"),
    ],
)
def test_what_cannot_be_is_one_sentence(jobs, working_folder, arguments, code, words):
    (working_folder / "list.json").write_text("[1]")
    (working_folder / "text.json").write_text("{")
    jobs("submit", "plan", SCAN)
    outcome = jobs(*arguments)
    assert outcome.code == code, outcome
    sentence, *usage = outcome.err.splitlines()
    assert sentence.startswith("conepacs: ")
    assert words in sentence
    assert not usage or code == 2


def test_a_runner_ends_at_a_signal_and_tells_prometheus(store):
    with start_conepacs("jobs", "work", "--metrics-port", 0, "--jobs", 2, folder=store.parent) as it:
        try:
            url = re.fullmatch(r"metrics: (http://127\.0\.0\.1:\d+/metrics)\n", it.stdout.readline())[1]
            assert re.fullmatch(r"runner \S+ works; end it with Ctrl-C\n", it.stdout.readline())
            with urllib.request.urlopen(url, timeout=30) as answer:
                assert b"conepacs_runner_jobs_running 0" in answer.read()
            it.send_signal(signal.SIGTERM)
            out, err = it.communicate(timeout=60)
        finally:
            it.kill()
    assert (it.returncode, out, err) == (0, "ended; jobs: none\n", "")


def test_jobs_of_several_at_once_share_spark_fairly(store, working_folder):
    from cli.job_work import make_runner
    from cli.settings import load
    from cli.work_settings import WorkSettings

    (working_folder / "conepacs.toml").write_text("[runner]\njobs = 3\ncores = 7\nmemory_gib = 1.5\n")
    runner = make_runner(load(WorkSettings), working_folder / "spark.log")
    assert runner._spark.extra == {"spark.scheduler.mode": "FAIR"}
    assert runner._resources == Resources(7, 3 << 29, 0)


def test_the_service_offers_the_same_queue(store, jobs):
    jobs("submit", "plan", SCAN)
    with start_conepacs("serve", "--dicom-port", 0, "--http-port", 0, folder=store.parent) as it:
        try:
            it.stdout.readline()
            page = re.match(r"page: (http://\S+)/ ", it.stdout.readline())[1]
            with urllib.request.urlopen(f"{page}/api/jobs", timeout=30) as answer:
                assert [job["job_id"] for job in json.load(answer)["jobs"]] == [1]
            it.send_signal(signal.SIGTERM)
            it.communicate(timeout=60)
        finally:
            it.kill()
    assert it.returncode == 0
