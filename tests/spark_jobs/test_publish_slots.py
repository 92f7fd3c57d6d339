# SPDX-License-Identifier: Apache-2.0
"""At most so many tasks of a node publish at once; a killed one holds nothing."""

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from spark_jobs.tasks.publish_slots import publish_slot


@pytest.mark.parametrize("slots", [1, 2])
def test_no_more_than_the_slots_are_held_at_once(tmp_path, slots):
    held, most, lock = [0], [0], threading.Lock()

    def publish(_):
        with publish_slot("file:///s", slots, folder=tmp_path):
            with lock:
                held[0] += 1
                most[0] = max(most[0], held[0])
            time.sleep(0.03)
            with lock:
                held[0] -= 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(publish, range(12)))
    assert most == [slots]


def test_without_slots_nobody_waits(tmp_path):
    with publish_slot("file:///s", 0, folder=tmp_path), publish_slot("file:///s", 0, folder=tmp_path) as waited:
        assert waited == 0.0
    assert list(tmp_path.iterdir()) == []


def hold(folder, ready):
    with publish_slot("file:///s", 1, folder=folder):
        ready.set()
        time.sleep(600)


def test_a_killed_process_gives_its_slot_back(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=hold, args=(tmp_path, ready), daemon=True)
    holder.start()
    assert ready.wait(60)
    timer = threading.Timer(0.3, os.kill, (holder.pid, signal.SIGKILL))
    timer.start()
    with publish_slot("file:///s", 1, folder=tmp_path) as waited:
        assert waited > 0.2
    holder.join(30)


def test_an_error_of_who_publishes_is_passed_on_and_gives_the_slot_back(tmp_path):
    for _ in range(2):
        with pytest.raises(OSError, match="full"), publish_slot("file:///s", 1, folder=tmp_path):
            raise OSError("full")


def test_stores_do_not_wait_for_each_other(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with publish_slot("file:///one", 1), publish_slot("file:///two", 1) as waited:
        assert waited < 5
    assert len(list(tmp_path.iterdir())) == 2
