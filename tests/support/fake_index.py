# SPDX-License-Identifier: Apache-2.0
"""An index in memory: plain loops over a list, the measure for the real ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pacs.attributes import INDEXED_KEYWORDS, LEVELS, UNIQUE_KEYS
from pacs.errors import InvalidQueryError
from pacs.matching import matches

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pacs.index import InstanceRecord, Level, Outcome, Query


@dataclass
class FakeIndex:
    """Keeps the first version of each instance in `kept`, later ones in `others`."""

    kept: list[InstanceRecord] = field(default_factory=list)
    others: list[InstanceRecord] = field(default_factory=list)

    def register(self, records: Iterable[InstanceRecord], *, source: str) -> dict[Outcome, int]:
        kept, others = list(self.kept), list(self.others)
        counts: dict[Outcome, int] = {"added": 0, "identical": 0, "version": 0}
        for record in records:
            same_uid = [one for one in kept + others if one.sop_instance_uid == record.sop_instance_uid]
            if not same_uid:
                kept.append(record)
                counts["added"] += 1
            elif any(one.location.dataset_sha256 == record.location.dataset_sha256 for one in same_uid):
                counts["identical"] += 1
            else:
                others.append(record)
                counts["version"] += 1
        self.kept, self.others = kept, others
        return counts

    def find(self, query: Query, *, limit: int, offset: int = 0) -> list[dict[str, str]]:
        entities: dict[tuple[str, ...], list[InstanceRecord]] = {}
        for record in self.kept:
            entities.setdefault(_path(record, query.level), []).append(record)
        found = []
        for path, members in entities.items():
            study = [one for one in self.kept if len(path) > 1 and _path(one, "STUDY") == path[:2]]
            values = {
                keyword: value for keyword, value in _attributes(members, self.kept, query.level).items() if value
            }
            values["ModalitiesInStudy"] = _distinct(study, "Modality")
            values["SOPClassesInStudy"] = _distinct(study, "SOPClassUID")
            if all(matches(keyword, match, values.get(keyword, "")) for keyword, match in query.matches.items()):
                found.append(self._answer(query, path, members, values))
        return found[offset : offset + limit]

    def instances(
        self,
        *,
        patient_id: str | None = None,
        study_uids: Sequence[str] = (),
        series_uids: Sequence[str] = (),
        sop_instance_uids: Sequence[str] = (),
    ) -> list[InstanceRecord]:
        if patient_id is None and not study_uids and not series_uids and not sop_instance_uids:
            raise InvalidQueryError("Instances were asked for without any key.")
        order = list(dict.fromkeys((one.study_uid, one.series_uid) for one in self.kept))
        found = [
            one
            for one in self.kept
            if (patient_id is None or one.patient_id == patient_id)
            and (not study_uids or one.study_uid in study_uids)
            and (not series_uids or one.series_uid in series_uids)
            and (not sop_instance_uids or one.sop_instance_uid in sop_instance_uids)
        ]
        return sorted(
            found,
            key=lambda one: (
                order.index((one.study_uid, one.series_uid)),
                int(one.attributes.get("InstanceNumber") or 10**9),
                one.sop_instance_uid,
            ),
        )

    def located(self, paths: Sequence[str]) -> set[str]:
        return {one.location.path for one in self.kept + self.others} & set(paths)

    def sizes(self) -> dict[Level, int]:
        return {level: len({_path(one, level) for one in self.kept}) for level in LEVELS}

    def _answer(
        self, query: Query, path: tuple[str, ...], members: list[InstanceRecord], values: dict[str, str]
    ) -> dict[str, str]:
        at_level = set(INDEXED_KEYWORDS[query.level]) | set(query.wanted)
        answer = {keyword: value for keyword, value in values.items() if keyword in at_level}
        for level, uid in zip(LEVELS, path, strict=False):
            answer[UNIQUE_KEYS[level]] = uid
        for keyword in query.wanted:
            for level, scope in (
                ("PATIENT", "NumberOfPatient"),
                ("STUDY", "NumberOfStudy"),
                ("SERIES", "NumberOfSeries"),
            ):
                depth = LEVELS.index(level) + 1
                if keyword.startswith(scope) and depth <= len(path):
                    inside = [one for one in self.kept if _path(one, level) == path[:depth]]
                    child = {"Studies": "STUDY", "Series": "SERIES", "Instances": "IMAGE"}[keyword.split("Related")[1]]
                    answer[keyword] = str(len({_path(one, child) for one in inside}))
        return answer


def _path(record: InstanceRecord, level: Level) -> tuple[str, ...]:
    uids = (record.patient_id, record.study_uid, record.series_uid, record.sop_instance_uid)
    return uids[: LEVELS.index(level) + 1]


def _attributes(members: list[InstanceRecord], kept: list[InstanceRecord], level: Level) -> dict[str, str]:
    values: dict[str, str] = {}
    for above in LEVELS[: LEVELS.index(level) + 1]:
        first = next(one for one in kept if _path(one, above) == _path(members[0], above))
        for keyword in INDEXED_KEYWORDS[above]:
            values[keyword] = first.attributes.get(keyword, "")
        values[UNIQUE_KEYS[above]] = _path(first, above)[-1]
    return values


def _distinct(records: list[InstanceRecord], keyword: str) -> str:
    return "\\".join(sorted({one.attributes[keyword] for one in records if one.attributes.get(keyword)}))
