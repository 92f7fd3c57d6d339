# SPDX-License-Identifier: Apache-2.0
"""The queue as plain loops over a list: the measure for the real one."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobs.scheduling import decayed

RESERVE_AFTER_S = 50.0


@dataclass
class ModelJob:
    """What the model keeps of a job."""

    job_id: int
    user: str
    priority: int
    cores: int
    needs: frozenset[int]
    max_attempts: int
    state: str = "waiting"
    attempt: int = 0
    used: int = 0
    runner: str = ""
    started: float = 0.0
    lease: float = 0.0
    stop: bool = False
    passed_over: float | None = None


@dataclass
class QueueModel:
    """Jobs, and what each user has used."""

    now: float = 0.0
    jobs: dict[int, ModelJob] = field(default_factory=dict)
    usage: dict[str, tuple[float, float]] = field(default_factory=dict)

    def submit(self, user: str, priority: int, cores: int, needs: frozenset[int], max_attempts: int) -> ModelJob:
        job = ModelJob(len(self.jobs) + 1, user, priority, cores, needs, max_attempts)
        self.jobs[job.job_id] = job
        if any(self.jobs[one].state in ("failed", "cancelled") for one in needs):
            job.state = "cancelled"
        return job

    def claim(self, runner: str, free: int, lease_s: float) -> ModelJob | None:
        self.expire()
        capacity = free + sum(job.cores for job in self.running() if job.runner == runner)
        waiting = [job for job in self.jobs.values() if self.may_start(job) and job.cores <= capacity]
        waiting.sort(key=lambda job: (-job.priority, self.cores_of(job.user), self.used_by(job.user), job.job_id))
        overdue = [
            job for job in waiting if job.passed_over is not None and self.now - job.passed_over >= RESERVE_AFTER_S
        ]
        first_wide = None
        for job in waiting:
            if any(job.job_id > one.job_id and job.priority <= one.priority for one in overdue):
                continue
            if job.cores <= free:
                if first_wide is not None and first_wide.passed_over is None:
                    first_wide.passed_over = self.now
                job.state, job.runner, job.started, job.lease = "running", runner, self.now, self.now + lease_s
                job.attempt, job.used, job.passed_over = job.attempt + 1, job.used + 1, None
                return job
            first_wide = first_wide or job
        return None

    def end(self, job: ModelJob, state: str) -> None:
        if job.state == "running":
            core_s, at = self.usage.get(job.user, (0.0, self.now))
            used = job.cores * (self.now - job.started)
            self.usage[job.user] = (used + decayed(core_s, self.now - at), self.now)
        job.state = state
        if state in ("failed", "cancelled"):
            for other in self.jobs.values():
                if job.job_id in other.needs and other.state == "waiting":
                    self.end(other, "cancelled")

    def fail(self, job: ModelJob, again: bool) -> None:
        if job.stop:
            self.end(job, "cancelled")
        else:
            self.end(job, "waiting" if again and job.used < job.max_attempts else "failed")

    def release(self, job: ModelJob) -> None:
        if not job.stop:
            job.used -= 1
        self.end(job, "cancelled" if job.stop else "waiting")

    def cancel(self, job: ModelJob) -> None:
        if job.state == "running":
            job.stop = True
        elif job.state == "waiting":
            self.end(job, "cancelled")

    def retry(self, job: ModelJob) -> bool:
        if job.state not in ("failed", "cancelled"):
            return False
        if any(self.jobs[one].state in ("failed", "cancelled") for one in job.needs):
            return False
        job.state, job.used, job.stop, job.passed_over = "waiting", 0, False, None
        return True

    def expire(self) -> list[int]:
        dead = [job for job in self.running() if job.lease < self.now]
        for job in dead:
            self.fail(job, again=True)
        return [job.job_id for job in dead]

    def running(self) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.state == "running"]

    def may_start(self, job: ModelJob) -> bool:
        return job.state == "waiting" and all(self.jobs[one].state == "done" for one in job.needs)

    def cores_of(self, user: str) -> int:
        return sum(job.cores for job in self.running() if job.user == user)

    def used_by(self, user: str) -> float:
        core_s, at = self.usage.get(user, (0.0, self.now))
        return decayed(core_s, self.now - at)
