# SPDX-License-Identifier: Apache-2.0
"""Where the ``conepacs`` command begins: an interrupt is told in one sentence from the first moment on."""

from __future__ import annotations

import sys


def main() -> None:
    """Import the command line and run it; interrupted while it is imported, say so as the verbs do."""
    try:
        from cli.main import run
    except KeyboardInterrupt:
        print("conepacs: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(run())
