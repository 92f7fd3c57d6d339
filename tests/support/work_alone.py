# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.support.work_alone FOLDER NAME SETTINGS``: a runner of naps in a process of its own.

Says ``ready``, works until SIGTERM, and prints how its jobs ended as one JSON line.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from tests.support.job_kinds import nap_queue, nap_runner


def main() -> None:
    folder, name, settings = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    with nap_queue(folder) as queue:
        runner = nap_runner(queue, folder, name, **settings)
        signal.signal(signal.SIGTERM, lambda *_: runner.stop())
        print("ready", flush=True)
        print(json.dumps(runner.run()), flush=True)


if __name__ == "__main__":
    main()
