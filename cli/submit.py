# SPDX-License-Identifier: Apache-2.0
"""What ``spark-submit`` runs: the ``conepacs`` command, on the master and with the properties of spark-submit.

::

    spark-submit --master yarn $(conepacs-submit) reconstruct stone --store hdfs://pacs/archive --index ...

``conepacs-submit`` prints the path of this file in the environment that it is installed in.
"""

from __future__ import annotations

import os
import sys


def show_path() -> None:
    """Print where this file is."""
    print(__file__)


if __name__ == "__main__":
    # A script's folder comes first in the search path; this one's modules have names of Python's own, such as inspect.
    _here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != _here]

    from cli.entry import main

    main()
