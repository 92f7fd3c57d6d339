# SPDX-License-Identifier: Apache-2.0
"""What ``spark-submit`` runs: the ``conepacs`` command, on the master and with the properties of spark-submit.

::

    spark-submit --master yarn $(conepacs-submit) reconstruct stone --store hdfs://pacs/archive --index ...

``conepacs-submit`` prints the path of this file in the environment that it is installed in.
"""

from __future__ import annotations


def show_path() -> None:
    """Print where this file is."""
    print(__file__)


if __name__ == "__main__":
    from cli.main import main

    main()
