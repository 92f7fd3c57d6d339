# SPDX-License-Identifier: Apache-2.0
"""The index interface: who asks for what, independent of the database behind it (border 5).

Levels are the Standard's (PS3.4 C.6): PATIENT, STUDY, SERIES, IMAGE.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Level = Literal["PATIENT", "STUDY", "SERIES", "IMAGE"]
#: What came of one registered instance: a new row, the same data set again, or other bytes under a known UID.
Outcome = Literal["added", "identical", "version"]


@dataclass(frozen=True, slots=True)
class Location:
    """Where the Part 10 bytes of an instance lie in the store: one ranged read.

    ``pixel_offset`` counts from the start of the Part 10 bytes to the value of Pixel Data (-1: none);
    native frames follow each other there.  ``dataset_sha256`` digests the data set without group 0002.
    """

    path: str
    offset: int
    length: int
    sha256: str
    dataset_sha256: str
    pixel_offset: int = -1


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """One instance as it is registered.

    ``attributes``: query attributes by keyword; text values, multi-values joined by a backslash.
    """

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_uid: str
    series_uid: str
    patient_id: str
    attributes: Mapping[str, str] = field(repr=False)
    location: Location = field(repr=False)


@dataclass(frozen=True, slots=True)
class Match:
    """How one key is matched (PS3.4 C.2.2.2): exactly one of the fields is set.

    ``exact``: single value or UID list (any of).  ``wildcard``: with * and ?.  ``range``: (low, high), either
    may be "".  Universal matching has no Match at all.
    """

    exact: tuple[str, ...] = ()
    wildcard: str = ""
    range: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """A request at one level: matches by keyword, and the keywords wanted back (besides the level's own keys)."""

    level: Level
    matches: Mapping[str, Match] = field(default_factory=dict)
    wanted: tuple[str, ...] = ()


class Index(Protocol):
    """Registration and query.  Implementations: `pacs.sql_index.SqlIndex`, and the fake in the contract suite."""

    def register(self, records: Iterable[InstanceRecord], *, source: str) -> dict[Outcome, int]:
        """Add all records in one transaction (all or none), and count what came of them."""

    def find(self, query: Query, *, limit: int, offset: int = 0) -> list[dict[str, str]]:
        """One mapping keyword -> value for each entity at the query's level, in a stable order.

        Values of wanted keywords that the index does not hold are left out.  Computed ones (PS3.4 C.3.4:
        ModalitiesInStudy, NumberOfStudyRelatedSeries, NumberOfSeriesRelatedInstances, ...) are included.
        """

    def instances(
        self, *, patient_id: str | None = None, study_uids: Sequence[str] = (), series_uids: Sequence[str] = (),
        sop_instance_uids: Sequence[str] = (),
    ) -> list[InstanceRecord]:  # fmt: skip
        """Instances under all the given keys, ordered by series, instance number, UID; the first version of each."""

    def located(self, paths: Sequence[str]) -> set[str]:
        """Which of these `Location.path` some instance or version lies at (recovery of the journal asks this)."""

    def sizes(self) -> dict[Level, int]:
        """How many entities there are at each level."""
