# SPDX-License-Identifier: Apache-2.0
"""The accuracy sheet's program, on small volumes: every figure keeps to what the page promises."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.peers import REPOSITORY


def test_the_small_form_of_the_accuracy_sheet_holds():
    done = subprocess.run(
        [sys.executable, "benchmarks/accuracy.py", "--small"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["held"]
    assert told["mu_percent"] < 0.5
    assert told["arc_percent"] < 0.5
    assert told["slabs"] == told["second_run"] == 0.0
    assert told["float16_rows"] < 3e-4
    assert told["reference"] < 1e-5
    # Short of 180 degrees and the fan, and offset panels on anything but a full turn: refused, never wrong.
    assert told["refused"] == 17
    for name in ("views", "offset", "FORBILD thorax", "cone angle", "ram-lak", "cut into slabs"):
        assert name in done.stdout
