# SPDX-License-Identifier: Apache-2.0
"""The event simulation: closed forms, conservation, monotony, faults, determinism.  Nothing runs but arithmetic."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spark_jobs.simulation.errors import SimulationError
from spark_jobs.simulation.events import Conditions, Phase, StageDemand, simulate
from spark_jobs.simulation.machine import Placement, even_placement, place_blocks, uniform_machine


def stage(n_tasks=10, cpu_s=2.0, read=0.0, write=0.0, overhead_s=0.0, **changes):
    phases = (Phase(cpu_s, read_bytes=read), Phase(write_bytes=write))
    return StageDemand("reconstruct", n_tasks, phases, overhead_s=overhead_s, **changes)


@st.composite
def jobs(draw):
    """A few stages of tasks that compute, read and write."""
    numbers = st.floats(0, 1e9).map(lambda value: value if value > 1 else 0.0)
    return tuple(
        stage(
            draw(st.integers(0, 60)), draw(st.floats(0.01, 20)), draw(numbers), draw(numbers),
            overhead_s=draw(st.floats(0, 1)), driver_s=draw(st.floats(0, 3)), scan_input=draw(st.booleans()),
        )
        for _ in range(draw(st.integers(1, 3)))
    )  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(job=jobs())
def test_one_slot_takes_the_sum_of_all_work(job):
    bandwidth = 100e6
    outcome = simulate(job, uniform_machine(1, 1, disk=bandwidth))
    expected = 0.0
    for part in job:
        task_s = part.overhead_s + sum(
            max(phase.cpu_s, (phase.read_bytes + phase.write_bytes) / bandwidth) for phase in part.phases
        )
        expected += part.driver_s + part.n_tasks * task_s
    assert outcome.seconds == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("n_tasks", "n_nodes", "slots"), [(1, 4, 4), (16, 4, 4), (17, 4, 4), (100, 2, 8)])
def test_equal_tasks_run_in_waves(n_tasks, n_nodes, slots):
    outcome = simulate([stage(n_tasks, 3.0, overhead_s=0.5)], uniform_machine(n_nodes, slots))
    assert outcome.seconds == pytest.approx(3.5 * math.ceil(n_tasks / (n_nodes * slots)))


def test_disks_of_a_node_are_shared_fairly():
    """Four tasks that read 100 MB each from one disk of 100 MB/s take four seconds; computing goes on meanwhile."""
    machine = uniform_machine(1, 4, disk=100e6)
    assert simulate([stage(4, 1.0, read=100e6)], machine).seconds == pytest.approx(4.0)
    assert simulate([stage(4, 9.0, read=100e6)], machine).seconds == pytest.approx(9.0)


def test_the_network_limits_what_is_not_local():
    """Ten nodes, one copy: nine tenths of what each reads come through its card."""
    machine = uniform_machine(10, 1, disk=1e9, network=100e6, copies=1)
    outcome = simulate([stage(10, 0.0, read=1e9)], machine)
    assert outcome.seconds == pytest.approx(0.9 * 1e9 / 100e6, rel=1e-6)
    assert outcome.stages[0].use["network"] == pytest.approx(1, abs=0.01)
    assert outcome.network_bytes == pytest.approx(0.9 * 1e10)


def test_the_switch_limits_all_nodes_together():
    machine = uniform_machine(10, 1, disk=1e9, network=1e9, copies=1, switch=200e6)
    assert simulate([stage(10, 0.0, read=1e9)], machine).seconds == pytest.approx(0.9e10 / 200e6, rel=1e-6)


def test_each_copy_is_written_and_all_but_one_go_through_the_network():
    machine = uniform_machine(5, 1, disk=100e6, network=1e9, copies=3)
    outcome = simulate([stage(5, 0.0, write=100e6)], machine)
    assert outcome.seconds == pytest.approx(3.0, rel=1e-6)
    assert outcome.disk_write_bytes == pytest.approx(3 * 5e8)
    assert outcome.network_bytes == pytest.approx(2 * 5e8)


def test_a_stream_of_a_task_has_its_own_limit():
    machine = uniform_machine(1, 2, disk=1e9, stream_read=50e6, stream_write=25e6)
    assert simulate([stage(2, 0.0, read=100e6, write=100e6)], machine).seconds == pytest.approx(2 + 4)


def test_a_node_that_holds_all_blocks_serves_all_readers():
    here = Placement(np.array([1.0, 0, 0, 0]), np.array([1.0, 0, 0, 0]))
    machine = uniform_machine(4, 1, disk=100e6, network=1e9, copies=1)
    outcome = simulate([stage(4, 0.0, read=100e6)], machine, scan_placement=here)
    assert outcome.seconds == pytest.approx(4.0, rel=0.02)


@settings(max_examples=20, deadline=None)
@given(
    job=jobs(), n_nodes=st.integers(1, 6), slots=st.integers(1, 4), copies=st.integers(1, 3), seed=st.integers(0, 99)
)
def test_bytes_are_conserved_and_nothing_is_faster_than_it_can_be(job, n_nodes, slots, copies, seed):
    machine = uniform_machine(n_nodes, slots, disk=200e6, network=150e6, copies=copies)
    troubled = Conditions(seed=seed, task_sigma=0.3, slow_node_share=0.3, slow_node_speed=0.5)
    outcome = simulate(job, machine, troubled)
    read = sum(part.n_tasks * sum(phase.read_bytes for phase in part.phases) for part in job)
    written = sum(part.n_tasks * sum(phase.write_bytes for phase in part.phases) for part in job)
    assert outcome.disk_read_bytes == pytest.approx(read, rel=1e-6, abs=10)
    assert outcome.disk_write_bytes == pytest.approx(written * machine.copies, rel=1e-6, abs=10)
    assert outcome.seconds >= (read + written * machine.copies) / (n_nodes * 200e6) * (1 - 1e-6)
    for part in outcome.stages:
        assert all(share <= 1 + 1e-6 for share in part.use.values()), part


@settings(max_examples=12, deadline=None)
@given(job=jobs(), n_nodes=st.sampled_from([3, 4, 6]))
def test_twice_the_nodes_are_never_slower(job, n_nodes):
    """As long as the network keeps up with the disks and each block has its copies."""
    small = simulate(job, uniform_machine(n_nodes, 2, disk=200e6, network=800e6, copies=3)).seconds
    large = simulate(job, uniform_machine(2 * n_nodes, 2, disk=200e6, network=800e6, copies=3)).seconds
    assert large <= small * (1 + 1e-6) + 1e-6


def test_a_seed_gives_one_result_and_another_seed_another():
    job = [stage(80, 5.0, read=50e6, write=20e6, overhead_s=0.2)]
    machine = uniform_machine(6, 4, disk=300e6, network=300e6, copies=3)
    runs = [
        simulate(job, machine, Conditions(seed=seed, task_sigma=0.3, lost_node_at_s=20.0, stored_bytes=1e9))
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1]
    assert runs[0].seconds != runs[2].seconds


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0.05, 0.9))
def test_a_lost_node_costs_time_and_runs_its_tasks_again(seed, share):
    assume(abs(4 * share - round(4 * share)) > 0.01)  # not where one wave ends and the next begins
    job, machine = [stage(64, 4.0)], uniform_machine(4, 4)
    whole = simulate(job, machine, Conditions(seed=seed))
    lost = simulate(job, machine, Conditions(seed=seed, lost_node_at_s=share * whole.seconds))
    assert lost.n_rerun == 4
    # What the node would still have done is done by three others.
    assert lost.seconds >= whole.seconds + (1 - share) * whole.seconds / 3 - 4.0
    assert lost.seconds >= share * whole.seconds + machine.executor_lost_after_s


def test_lost_blocks_are_copied_again_once_the_node_counts_as_dead():
    job = [stage(400, 4.0, read=1e6)]
    machine = uniform_machine(4, 4, disk=500e6, network=500e6, copies=3)
    held = Conditions(lost_node_at_s=10.0, stored_bytes=4e9)
    assert simulate(job, machine, held).recopied_bytes == 0
    quick = type(machine)(**{name: getattr(machine, name) for name in machine.__slots__} | {"dead_after_s": 5.0})
    assert simulate(job, quick, held).recopied_bytes == pytest.approx(1e9, rel=0.01)


def test_copying_again_takes_bandwidth_from_the_job():
    job = [stage(48, 0.0, read=1e9)]
    base = uniform_machine(4, 2, disk=200e6, network=1e9, copies=3)
    eager = type(base)(
        **{name: getattr(base, name) for name in base.__slots__}
        | {"dead_after_s": 0.0, "executor_lost_after_s": 0.0, "recopy": 100e6}
    )
    empty = simulate(job, eager, Conditions(lost_node_at_s=5.0)).seconds
    assert simulate(job, eager, Conditions(lost_node_at_s=5.0, stored_bytes=2e11)).seconds > 1.2 * empty


def test_the_only_node_cannot_be_lost():
    with pytest.raises(SimulationError, match="cannot lose one"):
        simulate([stage()], uniform_machine(1, 1), Conditions(lost_node_at_s=1.0))


def test_speculation_saves_the_job_from_a_node_that_hardly_moves():
    job, machine = [stage(64, 4.0)], uniform_machine(8, 2)
    slow = {"seed": 3, "slow_node_share": 0.125, "slow_node_speed": 0.05}
    without = simulate(job, machine, Conditions(**slow))
    with_it = simulate(job, machine, Conditions(**slow, speculation=True))
    assert without.seconds == pytest.approx(80.0)
    assert with_it.seconds < 0.5 * without.seconds
    assert with_it.n_speculative == 2


def test_uneven_tasks_keep_their_mean_time():
    job = [stage(20_000, 1.0)]
    machine = uniform_machine(1, 1)
    outcome = simulate(job, machine, Conditions(seed=5, task_sigma=0.4))
    assert outcome.seconds == pytest.approx(20_000, rel=0.01)


def test_the_driver_launches_tasks_one_after_the_other():
    machine = uniform_machine(100, 1)
    slow = type(machine)(**{name: getattr(machine, name) for name in machine.__slots__} | {"launches_per_s": 10.0})
    assert simulate([stage(100, 1.0)], slow).seconds == pytest.approx(100 / 10 + 1.0)
    assert simulate([StageDemand("register", 0, driver_s=7.0)], slow).seconds == pytest.approx(7.0)


@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_bundles_change_little_and_make_many_tasks_cheap(sigma):
    machine = uniform_machine(20, 8, disk=400e6, network=1e9, copies=3)
    phases = (Phase(read_bytes=20e6), Phase(4.0), Phase(0.5, write_bytes=5e6))
    conditions = Conditions(seed=1, task_sigma=sigma)
    many = simulate([StageDemand("reconstruct", 29_000, phases, overhead_s=0.2)], machine, conditions)
    # Between tasks that never wait for a disk, and tasks that always read at the same time.
    waves = 29_000 / 160
    assert 4.7 * waves * 0.99 < many.seconds < (4.7 + 0.4) * (waves + 1)
    started = time.process_time()
    huge = StageDemand("reconstruct", 250_000, phases, overhead_s=0.2)
    outcome = simulate([huge], uniform_machine(125, 32, disk=1600e6, network=4e9, copies=3), conditions)
    assert outcome.seconds == pytest.approx(250_000 / 4000 * 4.7, rel=0.1)
    assert time.process_time() - started < 60


@settings(max_examples=30, deadline=None)
@given(n_nodes=st.integers(1, 30), n_blocks=st.integers(1, 200), copies=st.integers(1, 4), seed=st.integers(0, 99))
def test_blocks_are_placed_on_different_nodes(n_nodes, n_blocks, copies, seed):
    placed = place_blocks(n_nodes, n_blocks, copies, np.random.default_rng(seed))
    assert placed.source.sum() == pytest.approx(1)
    assert placed.local.sum() == pytest.approx(min(copies, n_nodes))
    assert placed.local.max() <= 1 + 1e-12
    if n_nodes > 1:
        left = placed.without(0)
        assert left.local[0] == left.source[0] == 0


def test_very_many_blocks_are_spread_evenly():
    placed = place_blocks(1000, 10**7, 3, np.random.default_rng(0))
    assert np.array_equal(placed.local, even_placement(1000, 3).local)
    assert np.allclose(placed.local, 0.003)


def test_a_phase_reads_or_writes():
    with pytest.raises(SimulationError, match="reads or writes"):
        Phase(read_bytes=1, write_bytes=1)
