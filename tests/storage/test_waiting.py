# SPDX-License-Identifier: Apache-2.0
"""The tests' own way of waiting."""

from __future__ import annotations

import pytest

from tests.support.waiting import wait_until


def test_the_state_is_returned_as_soon_as_it_is_ready() -> None:
    states = iter([1, 2, 3, 4])
    assert wait_until("three", lambda: next(states), lambda state: state == 3, interval_s=0) == 3
    assert next(states) == 4


def test_the_last_state_is_told_when_time_is_up() -> None:
    with pytest.raises(TimeoutError, match=r"a leader: not so within 0\.05 s; last state: 'follower'"):
        wait_until("a leader", lambda: "follower", lambda state: state == "leader", timeout_s=0.05, interval_s=0.01)


def test_expected_exceptions_count_as_a_state_and_others_leave_at_once() -> None:
    def refused() -> bool:
        raise ConnectionRefusedError("no one there")

    with pytest.raises(TimeoutError, match="no one there"):
        wait_until("a server", refused, timeout_s=0.02, interval_s=0.01)
    with pytest.raises(ConnectionRefusedError):
        wait_until("a server", refused, not_yet=(KeyError,))
