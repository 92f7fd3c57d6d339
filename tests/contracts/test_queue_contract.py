# SPDX-License-Identifier: Apache-2.0
"""What the queue does, on SQLite and on PostgreSQL."""

from __future__ import annotations

import datetime

import pytest

from jobs.errors import JobParameterError, JobStateError, LeaseLostError, UnknownJobError, UnknownKindError
from jobs.queue import MAX_RESULT_BYTES, open_queue
from jobs.records import NewJob, Progress, Resources
from tests.support.postgres import empty_tables, new_database
from tests.support.queues import KINDS, MANY, START, SetClock, claimed, timed_queue, work


@pytest.fixture(scope="module")
def postgresql_database(postgresql_url):
    with new_database(postgresql_url) as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def url(request, tmp_path):
    if request.param == "sqlite":
        return str(tmp_path / "queue.sqlite")
    url = request.getfixturevalue("postgresql_database")
    empty_tables(url)
    return url


@pytest.fixture
def clock():
    return SetClock()


@pytest.fixture
def queue(url, clock):
    with timed_queue(url, clock, reserve_after_s=100.0) as made:
        yield made


def states(queue):
    return {job.job_id: job.state for job in queue.list()}


def told(queue, job_id):
    return [event.content for event in queue.events(job_id=job_id) if event.kind == "state"]


# ---- submit, look, list


def test_a_submitted_job_is_kept_as_it_is(queue):
    job = queue.submit(work(7, user="anna", priority=3, max_attempts=2))
    assert job == queue.get(1)
    assert (job.job_id, job.kind, job.state, job.submitted_at) == (1, "work", "waiting", START)
    assert job.parameters == {"number": 7, "cores": 1, "gpus": 0}  # completed with the defaults
    assert (job.user, job.priority, job.max_attempts, job.resources) == ("anna", 3, 2, Resources(1, 0, 0))
    assert (job.attempt, job.runner, job.lease_until, job.result, job.error) == (0, "", None, None, "")


def test_resources_are_those_of_the_kind_unless_given(queue):
    assert queue.submit(work(cores=5)).resources == Resources(5, 0, 0)
    given = Resources(2, 1 << 40, 1)
    assert queue.submit(NewJob("work", {"cores": 5}, resources=given)).resources == given


@pytest.mark.parametrize(
    ("job", "error", "message"),
    [
        (NewJob("dance", {}), UnknownKindError, "no kind of job is named 'dance'; there are other, work"),
        (NewJob("work", {"count": 1}), JobParameterError, "work: there is no parameter 'count'; there are number"),
        (NewJob("work", {"number": "x"}), JobParameterError, "work: parameter 'number': input should be a valid int"),
        (NewJob("work", {}, depends_on=(99,)), UnknownJobError, "there is no job 99"),
        (NewJob("work", {}, user="a\nb"), JobParameterError, r"user 'a\\nb': expected 0 to 100 printable characters"),
        (NewJob("work", {}, max_attempts=0), JobParameterError, "max_attempts 0: expected 1 to 100"),
        (NewJob("work", {}, priority=10**9), JobParameterError, "priority 1000000000: expected -1000 to 1000"),
        (NewJob("work", {}, resources=Resources(0)), JobParameterError, "cores 0: expected 1 to"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_sentence(queue, job, error, message):
    with pytest.raises(error, match=message):
        queue.submit(job)
    assert queue.list() == []
    assert queue.events() == []


def test_lists_are_newest_first_filtered_and_paged(queue):
    for number in range(6):
        queue.submit(work(number, user="ab"[number % 2], kind=["work", "other"][number // 3]))
    claimed(queue)
    assert [job.job_id for job in queue.list()] == [6, 5, 4, 3, 2, 1]
    assert [job.job_id for job in queue.list(limit=2, before_id=5)] == [4, 3]
    assert [job.job_id for job in queue.list(user="a")] == [5, 3, 1]
    assert [job.job_id for job in queue.list(user="a", kind="other", states=["waiting"])] == [5]
    assert [job.job_id for job in queue.list(states=["running", "done"])] == [1]
    assert queue.list(user="nobody") == []
    assert queue.counts() == {("work", "running"): 1, ("work", "waiting"): 2, ("other", "waiting"): 3}


def test_an_unknown_job_is_told(queue):
    for ask in (queue.get, queue.cancel, queue.retry, lambda job_id: queue.set_priority(job_id, 1)):
        with pytest.raises(UnknownJobError, match="there is no job 4"):
            ask(4)
    for number in (-1, 0, 10**30):
        with pytest.raises(UnknownJobError, match=f"there is no job {number}"):
            queue.get(number)
    assert queue.events(10**30) == []
    assert queue.list(before_id=10**30, limit=-1, user="\0") == []
    assert queue.events(-1, job_id=10**30, limit=10**30) == []


# ---- the way of a job


def test_the_way_of_a_job_and_its_events(queue, clock):
    queue.submit(work(user="anna"))
    clock.advance(5)
    job = queue.claim("r1", kinds=["work"], free=MANY, lease_s=60)
    assert (job.state, job.runner, job.attempt, job.attempts_used) == ("running", "r1", 1, 1)
    assert job.started_at == clock.time
    assert job.lease_until == clock.time + datetime.timedelta(seconds=60)
    clock.advance(30)
    assert queue.renew(1, "r1", 1, 60).lease_until == clock.time + datetime.timedelta(seconds=60)
    queue.report(1, "r1", 1, progress=Progress("filter", 3, 10), ui_url="http://spark:4040")
    queue.report(1, "r1", 1, log=("warning", "slow disk"))
    job = queue.get(1)
    assert (job.progress, job.ui_url) == (Progress("filter", 3, 10), "http://spark:4040")
    clock.advance(10)
    job = queue.finish(1, "r1", 1, {"series": ["1.2.3"], "ä": None})
    assert (job.state, job.result, job.finished_at) == ("done", {"series": ["1.2.3"], "ä": None}, clock.time)
    assert (job.lease_until, job.ui_url) == (None, "")
    events = queue.events()
    assert [(event.kind, event.content) for event in events] == [
        ("state", {"state": "waiting", "kind": "work", "user": "anna"}),
        ("state", {"state": "running", "runner": "r1", "attempt": 1}),
        ("progress", {"stage": "filter", "done": 3, "total": 10}),
        ("state", {"state": "running", "ui_url": "http://spark:4040"}),
        ("log", {"level": "warning", "message": "slow disk"}),
        ("state", {"state": "done", "runner": "r1", "attempt": 1}),
    ]
    assert events[1].at == START + datetime.timedelta(seconds=5)
    assert queue.events(events[3].event_id) == events[4:]
    assert queue.events(events[1].event_id, limit=2) == events[2:4]
    assert queue.events(job_id=2) == []


def test_a_result_once_more_changes_nothing(queue):
    queue.submit(work())
    claimed(queue)
    first = queue.finish(1, "r1", 1, {"a": 1})
    assert queue.finish(1, "r1", 1, {"a": 1}) == first
    assert len(told(queue, 1)) == 3


def test_a_failed_attempt_comes_again_until_they_are_used_up(queue):
    queue.submit(work(max_attempts=2))
    claimed(queue)
    job = queue.fail(1, "r1", 1, "disk full", again=True)
    assert (job.state, job.error, job.started_at, job.lease_until) == ("waiting", "", None, None)
    assert claimed(queue, "r2") == 1
    job = queue.fail(1, "r2", 2, "disk still full", again=True)
    assert (job.state, job.error) == ("failed", "disk still full")
    assert told(queue, 1)[2]["reason"] == "disk full"
    assert queue.fail(1, "r2", 2, "disk still full", again=True) == job


def test_a_failure_that_would_come_again_is_final(queue):
    queue.submit(work())
    claimed(queue)
    assert queue.fail(1, "r1", 1, "no such scan", again=False).state == "failed"
    assert claimed(queue) is None


def test_a_delayed_attempt_starts_not_before(queue, clock):
    queue.submit(work())
    claimed(queue)
    queue.fail(1, "r1", 1, "store is away", again=True, delay_s=30)
    clock.advance(29)
    assert claimed(queue) is None
    clock.advance(1)
    assert claimed(queue) == 1


def test_retried_jobs_have_all_their_attempts_but_no_old_number(queue):
    queue.submit(work(max_attempts=1))
    claimed(queue)
    queue.fail(1, "r1", 1, "bad", again=True)
    job = queue.retry(1, by="anna")
    assert (job.state, job.error, job.attempts_used) == ("waiting", "", 0)
    assert told(queue, 1)[-1] == {"state": "waiting", "by": "anna"}
    job = queue.claim("r1", kinds=["work"], free=MANY, lease_s=60)
    assert (job.attempt, job.attempts_used) == (2, 1)
    with pytest.raises(LeaseLostError):
        queue.finish(1, "r1", 1, {})  # the same runner, but the attempt of before


@pytest.mark.parametrize("state", ["waiting", "running", "done"])
def test_only_failed_and_cancelled_jobs_are_retried(queue, state):
    queue.submit(work())
    if state != "waiting":
        claimed(queue)
    if state == "done":
        queue.finish(1, "r1", 1, {})
    with pytest.raises(JobStateError, match=f"job 1 cannot be retried: it is {state}"):
        queue.retry(1)


def test_a_released_job_is_as_if_it_had_not_started(queue):
    queue.submit(work(max_attempts=1))
    for attempt in (1, 2, 3):
        assert claimed(queue) == 1
        job = queue.release(1, "r1", attempt)
        assert (job.state, job.attempts_used, job.attempt) == ("waiting", 0, attempt)


# ---- leases


def test_a_lease_that_ran_out_gives_the_job_to_another(queue, clock):
    queue.submit(work())
    claimed(queue, "r1")
    clock.advance(61)
    assert claimed(queue, "r2") == 1
    job = queue.get(1)
    assert (job.runner, job.attempt, job.attempts_used) == ("r2", 2, 2)
    writes = [
        lambda: queue.renew(1, "r1", 1, 60),
        lambda: queue.report(1, "r1", 1, progress=Progress("filter", 1, 1)),
        lambda: queue.finish(1, "r1", 1, {"wrong": True}),
        lambda: queue.fail(1, "r1", 1, "wrong", again=False),
        lambda: queue.release(1, "r1", 1),
        lambda: queue.cancelled(1, "r1", 1),
        lambda: queue.renew(1, "r2", 1, 60),  # the right runner, the wrong attempt
        lambda: queue.renew(1, "r1", 2, 60),
    ]
    n_events = len(queue.events())
    for write in writes:
        with pytest.raises(LeaseLostError, match=r"job 1 is no longer that of runner .* 'r2' has it in attempt 2"):
            write()
    assert queue.get(1) == job
    assert len(queue.events()) == n_events
    assert queue.finish(1, "r2", 2, {"right": True}).result == {"right": True}
    with pytest.raises(LeaseLostError, match="it is done"):
        queue.finish(1, "r1", 1, {"wrong": True})


def test_a_job_whose_runners_die_fails_in_the_end(queue, clock):
    queue.submit(work(max_attempts=2))
    for runner in ("r1", "r2"):
        assert claimed(queue, runner) == 1
        assert queue.expire() == []
        clock.advance(61)
    (job,) = queue.expire()
    assert job.state == "failed"
    assert job.error == "its runner died 2 times, the last was 'r2'; 2 attempts were allowed"
    assert queue.expire() == []
    assert told(queue, 1)[-1]["lease_ran_out"] is True


def test_a_late_renewal_counts_if_nobody_has_taken_the_job(queue, clock):
    queue.submit(work())
    claimed(queue)
    clock.advance(3600)
    queue.renew(1, "r1", 1, 60)
    assert queue.expire() == []


# ---- cancelling, dependencies


def test_cancelling_a_waiting_job_takes_those_with_it_that_need_it(queue):
    queue.submit(work())
    queue.submit(work(depends_on=(1,)))
    queue.submit(work(depends_on=(2, 1)))
    queue.submit(work())
    assert queue.cancel(1, by="anna").state == "cancelled"
    assert states(queue) == {1: "cancelled", 2: "cancelled", 3: "cancelled", 4: "waiting"}
    assert queue.get(2).error == "job 1, which it needs, was cancelled"
    assert queue.get(3).error in {f"job {needed}, which it needs, was cancelled" for needed in (1, 2)}
    assert told(queue, 1)[-1] == {"state": "cancelled", "by": "anna"}
    assert queue.cancel(1).state == "cancelled"
    assert len(told(queue, 3)) == 2


def test_a_running_job_is_asked_to_stop(queue):
    queue.submit(work())
    queue.submit(work(depends_on=(1,)))
    claimed(queue)
    with pytest.raises(JobStateError, match="job 1 was stopped, but nobody asked for that"):
        queue.cancelled(1, "r1", 1)
    assert queue.cancel(1, by="anna").state == "running"
    assert queue.renew(1, "r1", 1, 60).cancel_requested
    assert queue.cancelled(1, "r1", 1).state == "cancelled"
    assert states(queue) == {1: "cancelled", 2: "cancelled"}
    assert queue.retry(1).cancel_requested is False


@pytest.mark.parametrize("how", ["dies", "fails", "releases"])
def test_a_job_that_was_to_stop_does_not_come_again(queue, clock, how):
    queue.submit(work())
    claimed(queue)
    queue.cancel(1)
    if how == "dies":
        clock.advance(61)
        queue.expire()
    elif how == "fails":
        queue.fail(1, "r1", 1, "interrupted", again=True)
    else:
        queue.release(1, "r1", 1)
    assert queue.get(1).state == "cancelled"


def test_a_result_that_comes_before_the_stop_counts(queue):
    queue.submit(work())
    claimed(queue)
    queue.cancel(1)
    assert queue.finish(1, "r1", 1, {}).state == "done"
    with pytest.raises(JobStateError, match="job 1 cannot be cancelled: it is done"):
        queue.cancel(1)


def test_jobs_wait_for_all_they_need(queue):
    queue.submit(work())
    queue.submit(work())
    job = queue.submit(work(priority=9, depends_on=(2, 1, 2)))
    assert job.depends_on == (1, 2)
    assert [claimed(queue), claimed(queue), claimed(queue)] == [1, 2, None]
    queue.finish(1, "r1", 1, {})
    assert claimed(queue) is None
    queue.finish(2, "r1", 1, {})
    assert claimed(queue) == 3


def test_a_failure_cancels_what_needs_it_and_both_can_be_retried_in_order(queue):
    queue.submit(work())
    queue.submit(work(depends_on=(1,)))
    claimed(queue)
    queue.fail(1, "r1", 1, "bad scan", again=False)
    assert (queue.get(2).state, queue.get(2).error) == ("cancelled", "job 1, which it needs, has failed")
    with pytest.raises(JobStateError, match="job 2 cannot be retried: job 1, which it needs, has failed; retry that"):
        queue.retry(2)
    queue.retry(1)
    queue.retry(2)
    assert [claimed(queue), claimed(queue)] == [1, None]
    queue.finish(1, "r1", 2, {})
    assert claimed(queue) == 2


def test_what_needs_a_job_that_has_failed_is_cancelled_at_once(queue):
    queue.submit(work())
    queue.cancel(1)
    job = queue.submit(work(depends_on=(1,)))
    assert (job.state, job.error) == ("cancelled", "job 1, which it needs, was cancelled")


# ---- order


def test_priority_goes_first_then_age(queue):
    for priority in (0, 5, 0, 5, -1):
        queue.submit(work(priority=priority))
    queue.set_priority(3, 7)
    assert [claimed(queue) for _ in range(6)] == [3, 2, 4, 1, 5, None]
    assert {"state": "waiting", "priority": 7} in told(queue, 3)


def test_only_kinds_that_the_runner_knows(queue):
    queue.submit(work(kind="other"))
    queue.submit(work())
    assert queue.claim("r1", kinds=["work"], free=MANY, lease_s=60).job_id == 2
    assert queue.claim("r1", kinds=["work"], free=MANY, lease_s=60) is None
    assert queue.claim("r1", kinds=[], free=MANY, lease_s=60) is None


def test_users_take_turns_by_running_cores(queue):
    for _ in range(4):
        queue.submit(work(user="many"))
    queue.submit(work(user="wide", cores=8))
    queue.submit(work(user="wide"))
    queue.submit(work(user="few"))
    order = [queue.get(claimed(queue)).user for _ in range(7)]
    assert order == ["many", "wide", "few", "many", "many", "many", "wide"]


def test_users_who_used_less_of_late_go_first(queue, clock):
    for user in ("big", "small", "big", "small"):
        queue.submit(work(user=user))
    for used_s in (500, 20):
        job_id = claimed(queue, lease_s=1000)
        clock.advance(used_s)
        queue.finish(job_id, "r1", 1, {})
    assert [queue.get(claimed(queue)).user for _ in range(2)] == ["small", "big"]


def test_what_does_not_fit_is_passed_over_but_not_for_ever(queue, clock):
    first = queue.submit(work(cores=1)).job_id
    wide = queue.submit(work(cores=4)).job_id
    small = [queue.submit(work(cores=1)).job_id for _ in range(6)]
    room = Resources(4)
    assert claimed(queue, free=room, lease_s=1e6) == first
    assert claimed(queue, free=Resources(3), lease_s=1e6) == small[0]  # overtakes: the clock of the wide one starts
    clock.advance(99)
    assert claimed(queue, free=Resources(2), lease_s=1e6) == small[1]
    clock.advance(1)
    assert claimed(queue, free=Resources(1), lease_s=1e6) is None  # room gathers now
    assert claimed(queue, "narrow", free=Resources(1), lease_s=1e6) == small[2]  # could never hold the wide one
    urgent = queue.submit(work(priority=1)).job_id
    assert claimed(queue, free=Resources(1), lease_s=1e6) == urgent
    for job_id in (first, small[0], small[1], urgent):
        queue.finish(job_id, "r1", 1, {})
    assert claimed(queue, free=room, lease_s=1e6) == wide


def test_gpus_and_memory_count_too(queue):
    queue.submit(NewJob("work", {}, resources=Resources(1, 8 << 30, 0)))
    queue.submit(NewJob("work", {}, resources=Resources(1, 0, 1)))
    assert claimed(queue, free=Resources(9, 4 << 30, 0)) is None
    assert claimed(queue, free=Resources(9, 4 << 30, 1)) == 2
    assert claimed(queue, free=Resources(9, 8 << 30, 0)) == 1


# ---- what is written


def test_results_and_parameters_are_bounded(queue):
    with pytest.raises(JobParameterError, match=r"parameters of kind 'work': \d+ bytes as JSON, at most 262144 are"):
        queue.submit(NewJob("work", {"number": "9" * 300_000}))
    queue.submit(work())
    claimed(queue)
    with pytest.raises(JobParameterError, match=r"the result of job 1: \d+ bytes as JSON, at most 1048576 are allowed"):
        queue.finish(1, "r1", 1, {"x": "y" * MAX_RESULT_BYTES})
    with pytest.raises(JobParameterError, match="the result of job 1: not JSON values"):
        queue.finish(1, "r1", 1, {"x": float("nan")})
    with pytest.raises(JobParameterError, match="log of job 1: unknown level 'shout', expected debug, info, warning"):
        queue.report(1, "r1", 1, log=("shout", "x"))
    assert queue.get(1).state == "running"


def test_any_text_can_be_told(queue):
    queue.submit(work(user="Änne ☢"))
    claimed(queue)
    queue.report(1, "r1", 1, log=("info", "zero \0 half \ud800 long " + "x" * 10_000))
    (line,) = [event for event in queue.events() if event.kind == "log"]
    assert line.content["message"].startswith("zero � half ? long xxx")
    assert len(line.content["message"]) == 4000
    assert queue.fail(1, "r1", 1, "\0\ud800", again=False).error == "�?"
    assert queue.get(1).user == "Änne ☢"


# ---- for metrics, and housekeeping


def test_the_oldest_that_misses_only_a_runner(queue, clock):
    assert queue.oldest_waiting_s() == 0.0
    queue.submit(work())
    queue.submit(work(depends_on=(1,)))
    clock.advance(10)
    assert queue.oldest_waiting_s() == 10.0
    claimed(queue)
    clock.advance(10)
    assert queue.oldest_waiting_s() == 0.0
    queue.finish(1, "r1", 1, {})
    clock.advance(4)
    assert queue.oldest_waiting_s() == 4.0


def test_old_jobs_go_with_their_events(queue, clock):
    queue.submit(work())  # done long ago, needed by 3
    queue.submit(work())  # failed long ago
    claimed(queue)
    claimed(queue)
    queue.finish(1, "r1", 1, {})
    queue.fail(2, "r1", 1, "bad", again=False)
    queue.submit(work(depends_on=(1,)))
    clock.advance(1000)
    queue.submit(work())
    queue.cancel(4)
    assert queue.delete_finished(500) == 1
    assert states(queue) == {1: "done", 3: "waiting", 4: "cancelled"}
    assert {event.job_id for event in queue.events()} == {1, 3, 4}
    queue.cancel(3)
    clock.advance(1000)
    assert queue.delete_finished(500) == 3
    assert queue.submit(work()).job_id == 5  # a number is never given twice
    assert queue.events()[0].event_id > 4


def test_the_schema_comes_with_opening_and_the_clock_is_the_databases(url):
    with open_queue(url, KINDS) as queue:
        queue.submit(work())
        job = queue.claim("r1", kinds=["work"], free=MANY, lease_s=60)
    with open_queue(url, KINDS) as queue:
        assert queue.get(1) == job
    skew = datetime.datetime.now(datetime.UTC) - job.started_at
    assert abs(skew.total_seconds()) < 60
