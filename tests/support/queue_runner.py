# SPDX-License-Identifier: Apache-2.0
"""A runner without Spark, as a process of its own: ``python -m tests.support.queue_runner URL NAME [hang]``.

It waits for a line on stdin, works off what is there, and prints the number of each job that it finished.  With
``hang`` it claims one job for a second, says so and stays; with ``hold`` it stays in the middle of a write.
"""

from __future__ import annotations

import sys
import time

from jobs.queue import open_queue
from storage.database import write_transaction
from tests.support.queues import KINDS, MANY


def main() -> None:
    url, name, *how = sys.argv[1:]
    with open_queue(url, KINDS) as queue:
        print("ready", flush=True)
        sys.stdin.readline()
        if how == ["hold"]:
            with write_transaction(queue.engine, only_writer_of="jobs") as connection:
                connection.exec_driver_sql("UPDATE job SET priority = 999")
                stay("holding")
        while job := queue.claim(name, kinds=["work"], free=MANY, lease_s=1.0 if how == ["hang"] else 60.0):
            if how == ["hang"]:
                stay(str(job.job_id))
            queue.finish(job.job_id, name, job.attempt, {"by": name})
            print(job.job_id, flush=True)


def stay(word: str) -> None:
    """Say a word, then nothing for long."""
    print(word, flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
