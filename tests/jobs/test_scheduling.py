# SPDX-License-Identifier: Apache-2.0
"""Which job is next: the decision as a function of values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.records import Resources
from jobs.scheduling import (
    USAGE_HALF_LIFE_S,
    Candidate,
    Choice,
    Ending,
    Share,
    after_death,
    after_failure,
    choose,
    decayed,
)


def candidate(job_id, *, user="a", priority=0, cores=1, since=None):
    return Candidate(job_id, user, priority, Resources(cores), since)


def next_of(candidates, shares=None, *, free=8, capacity=8, now=1000.0):
    room = {"free": Resources(free), "capacity": Resources(capacity)}
    return choose(candidates, shares or {}, **room, now=now, reserve_after_s=100)


def test_nothing_to_choose_from():
    assert next_of([]) == Choice()
    assert next_of([candidate(1, cores=9)]) == Choice()


def test_priority_before_share_before_age():
    shares = {"a": Share(4, 0.0), "b": Share(0, 50.0), "c": Share(0, 20.0)}
    waiting = [
        candidate(1, user="a"),
        candidate(2, user="b"),
        candidate(4, user="c"),
        candidate(3, user="c"),
        candidate(5, user="a", priority=1),
    ]
    order = []
    while waiting:
        chosen = next_of(waiting, shares).job_id
        order.append(chosen)
        waiting = [one for one in waiting if one.job_id != chosen]
    assert order == [5, 3, 4, 2, 1]


def test_who_has_used_nothing_yet_goes_first():
    assert next_of([candidate(1, user="a"), candidate(2, user="new")], {"a": Share(0, 0.1)}).job_id == 2


def test_what_does_not_fit_is_passed_over_and_said():
    waiting = [candidate(1, cores=6), candidate(2, cores=7), candidate(3)]
    assert next_of(waiting, free=5) == Choice(3, passed_over=1)
    assert next_of(waiting[:2], free=5) == Choice()  # nobody overtook anybody
    assert next_of([candidate(1, cores=9), candidate(3)], free=5) == Choice(3)  # no room of this runner would help


def test_room_gathers_for_what_was_passed_over_long_enough():
    wide = candidate(2, cores=6, since=900.0)
    assert next_of([wide, candidate(3)], free=5, now=999.0) == Choice(3, passed_over=2)
    assert next_of([wide, candidate(3)], free=5) == Choice()
    assert next_of([wide, candidate(3, user="other")], {"a": Share(9, 9.0)}, free=5) == Choice()
    assert next_of([wide, candidate(3)], free=6) == Choice(2)
    assert next_of([wide, candidate(1)], free=5).job_id == 1  # older: it may
    assert next_of([wide, candidate(3, priority=1)], free=5).job_id == 3  # more urgent: it may
    assert next_of([wide, candidate(3, priority=-1)], free=5) == Choice()
    assert next_of([wide, candidate(3)], free=5, capacity=5).job_id == 3  # this runner can never hold it


@given(
    waiting=st.lists(
        st.builds(
            candidate,
            st.integers(1, 100),
            user=st.sampled_from("abc"),
            priority=st.integers(-1, 1),
            cores=st.integers(1, 9),
            since=st.none() | st.sampled_from([850.0, 950.0]),
        ),
        unique_by=lambda one: one.job_id,
        max_size=12,
    ),
    cores=st.lists(st.integers(0, 3), min_size=3, max_size=3),
    free=st.integers(0, 8),
)
def test_a_choice_is_always_right(waiting, cores, free):
    shares = {user: Share(count) for user, count in zip("abc", cores, strict=True)}
    choice = next_of(waiting, shares, free=free)
    assert choice == next_of(waiting[::-1], shares, free=free)
    by_id = {one.job_id: one for one in waiting}
    reserved = [one for one in waiting if one.passed_over_at == 850.0 and one.needs.cores <= 8]

    def may_run(one):
        barred = any(one.job_id > other.job_id and one.priority <= other.priority for other in reserved)
        return one.needs.cores <= free and not barred

    allowed = [one for one in waiting if may_run(one)]
    if choice.job_id is None:
        assert allowed == []
        return
    chosen = by_id[choice.job_id]
    assert chosen in allowed
    assert chosen.priority == max(one.priority for one in allowed)
    equals = [one for one in allowed if one.priority == chosen.priority]
    assert shares[chosen.user].running_cores == min(shares[one.user].running_cores for one in equals)
    if choice.passed_over is not None:
        assert free < by_id[choice.passed_over].needs.cores <= 8


def test_used_core_seconds_fade():
    assert decayed(80.0, 0.0) == 80.0
    assert decayed(80.0, USAGE_HALF_LIFE_S) == 40.0
    assert decayed(80.0, 2 * USAGE_HALF_LIFE_S) == 20.0
    assert decayed(80.0, -5.0) == 80.0  # a clock that was set back


@pytest.mark.parametrize(
    ("used", "most", "stop", "ending"),
    [
        (1, 3, False, Ending("waiting")),
        (3, 3, False, Ending("failed", "its runner died 2 times, the last was 'r'; 3 attempts were allowed")),
        (1, 3, True, Ending("cancelled")),
    ],
)
def test_after_a_death(used, most, stop, ending):
    assert after_death(runner="r", deaths=2, attempts_used=used, max_attempts=most, cancel_requested=stop) == ending


def test_one_death_is_told_in_the_singular():
    ending = after_death(runner="r", deaths=1, attempts_used=1, max_attempts=1, cancel_requested=False)
    assert ending.error == "its runner died, it was 'r'; one attempt was allowed"


@pytest.mark.parametrize(
    ("again", "used", "stop", "ending"),
    [
        (True, 1, False, Ending("waiting")),
        (True, 2, False, Ending("failed", "bad")),
        (False, 1, False, Ending("failed", "bad")),
        (True, 1, True, Ending("cancelled")),
        (False, 1, True, Ending("cancelled")),
    ],
)
def test_after_a_failure(again, used, stop, ending):
    assert after_failure("bad", again=again, attempts_used=used, max_attempts=2, cancel_requested=stop) == ending
