# SPDX-License-Identifier: Apache-2.0
"""Rates measured by a short probe (`spark_jobs.tasks.rate_probe`), kept at ``tuning/<name>.json`` in the store.

Plans read them by name, so that a plan stays what it is until somebody tunes again.  The name ``default`` is read
where it is there; ``built-in`` asks for the rates that the software brings.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from spark_jobs.errors import PlanError
from spark_jobs.planning.rates import BUILT_IN, Rates
from storage.errors import MissingFileError
from storage.publish import publish_bytes

if TYPE_CHECKING:
    from storage.filesystem import Store

TUNING_SCHEMA_VERSION = 1
TUNING_FOLDER = "tuning"
DEFAULT_NAME = "default"


def tuning_path(name: str) -> str:
    """Where the rates of that name lie; PlanError if it cannot name a file."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise PlanError(f"a tuning's name is letters, digits, dots, dashes and underscores, at most 64, got '{name}'")
    return f"{TUNING_FOLDER}/{name}.json"


def load_rates(store: Store, name: str) -> Rates:
    """Return the rates of that name; the built-in ones for ``built-in``, and for ``default`` where nobody has tuned.

    Raises
    ------
    PlanError
        If there are none of that name, or they are of another schema version.
    """
    if name == BUILT_IN.name:
        return BUILT_IN
    path = tuning_path(name)
    try:
        values = json.loads(store.read_bytes(path))
    except MissingFileError as error:
        if name == DEFAULT_NAME:
            return BUILT_IN
        raise PlanError(
            f"{store.url} has no tuning '{name}': make it with `conepacs plan SCAN_ID --probe --tuning {name}`"
        ) from error
    if values.get("schema_version") != TUNING_SCHEMA_VERSION:
        version = values.get("schema_version")
        raise PlanError(
            f"{path} has tuning schema version {version}, expected {TUNING_SCHEMA_VERSION}: make it anew with "
            f"`conepacs plan SCAN_ID --probe --tuning {name}`"
        )
    return Rates(**values["rates"])


def save_rates(store: Store, rates: Rates) -> str:
    """Keep rates under their name, over what is there; return the path."""
    path = tuning_path(rates.name)
    content = {"schema_version": TUNING_SCHEMA_VERSION, "rates": rates.to_json()}
    publish_bytes(store, path, json.dumps(content, indent=1, sort_keys=True).encode(), kind="replace")
    return path
