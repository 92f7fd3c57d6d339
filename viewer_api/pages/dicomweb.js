// SPDX-License-Identifier: Apache-2.0
// Questions to DICOMweb, and plain values from DICOM JSON (PS3.18 Annex F).

const BASE = "/dicom-web";
const PAGE = 1000;
const UID = /^[0-9.]{1,64}$/;

export const TAG = {
  patientName: "00100010", patientId: "00100020", birthDate: "00100030", sex: "00100040",
  studyUid: "0020000D", studyDate: "00080020", studyDescription: "00081030", modalities: "00080061",
  nSeries: "00201206", nInstances: "00201208", accession: "00080050",
  seriesUid: "0020000E", seriesNumber: "00200011", seriesDescription: "0008103E", modality: "00080060",
  nSeriesInstances: "00201209", patientPosition: "00185100",
  sopUid: "00080018", instanceNumber: "00200013", nFrames: "00280008", rows: "00280010", columns: "00280011",
  position: "00200032", orientation: "00200037", spacing: "00280030", thickness: "00180050",
  center: "00281050", width: "00281051", slope: "00281053", intercept: "00281052", rescaleType: "00281054",
  bitsStored: "00280101", pixelRepresentation: "00280103",
};
const INSTANCE_FIELDS = ["position", "orientation", "spacing", "thickness", "center", "width", "slope", "intercept",
  "rescaleType", "bitsStored", "pixelRepresentation", "nFrames"].map((name) => TAG[name]).join(",");

/** All values of an attribute; null stands for an empty one. */
export function values(answer, tag) {
  return answer[tag]?.Value ?? [];
}

/** The first value of an attribute as text. */
export function text(answer, tag) {
  const [first] = values(answer, tag);
  if (first === undefined || first === null) return "";
  return typeof first === "object" ? first.Alphabetic ?? first.Ideographic ?? first.Phonetic ?? "" : String(first);
}

/** Numbers of an attribute; null unless there are exactly `count` of them. */
export function numbers(answer, tag, count) {
  const found = values(answer, tag);
  return found.length === count && found.every(Number.isFinite) ? found : null;
}

/** A person's name as it is read: family name first, without the delimiters. */
export function personName(answer, tag) {
  const [family = "", given = "", middle = "", prefix = "", suffix = ""] = text(answer, tag).split("^");
  return [family, [prefix, given, middle, suffix].filter(Boolean).join(" ")].filter(Boolean).join(", ");
}

/** A date as 2026-01-05. */
export function date(answer, tag) {
  return text(answer, tag).replace(/^(\d{4})(\d{2})(\d{2})$/, "$1-$2-$3");
}

async function ask(path, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== ""));
  const response = await fetch(`${BASE}${path}?${query}`, { headers: { Accept: "application/dicom+json" } });
  if (!response.ok) {
    const content = await response.json().catch(() => ({}));
    throw new Error(content.error ?? `The archive answered with status ${response.status}.`);
  }
  return response.json();
}

function checked(uid) {
  if (!UID.test(uid)) throw new Error("The address of this page has a malformed UID.");
  return uid;
}

/** One page of studies; keys are matched anywhere in the value. */
export function findStudies(keys, limit, offset) {
  const matches = Object.entries(keys).filter(([, value]) => value.trim())
    .map(([keyword, value]) => [keyword, /[*?]/.test(value) ? value.trim() : `*${value.trim()}*`]);
  return ask("/studies", { ...Object.fromEntries(matches), limit, offset });
}

export async function findStudy(studyUid) {
  const [study] = await ask("/studies", { StudyInstanceUID: checked(studyUid), includefield: "PatientComments" });
  if (!study) throw new Error("The archive has no such study.");
  return study;
}

/** Series of a study by number. */
export async function findSeries(studyUid) {
  const series = await ask(`/studies/${checked(studyUid)}/series`, { includefield: TAG.patientPosition });
  return series.sort((a, b) => Number(text(a, TAG.seriesNumber)) - Number(text(b, TAG.seriesNumber)));
}

/** All instances of a series, page by page. */
export async function findInstances(studyUid, seriesUid) {
  const path = `/studies/${checked(studyUid)}/series/${checked(seriesUid)}/instances`;
  const found = [];
  for (;;) {
    const page = await ask(path, { includefield: INSTANCE_FIELDS, limit: PAGE, offset: found.length });
    found.push(...page);
    if (page.length < PAGE) return found;
  }
}

export function thumbnailUrl(studyUid, seriesUid) {
  return `${BASE}/studies/${checked(studyUid)}/series/${checked(seriesUid)}/thumbnail?viewport=320,320&accept=image/jpeg`;
}

/** Address of a rendered frame; without a window the header's own is used. */
export function renderedUrl(studyUid, seriesUid, frame, windowing) {
  const path = `${BASE}/studies/${checked(studyUid)}/series/${checked(seriesUid)}/instances/${checked(frame.sopUid)}`;
  const query = new URLSearchParams({ accept: "image/png" });
  if (windowing) query.set("window", `${windowing.center},${windowing.width},linear-exact`);
  return `${path}/frames/${frame.number}/rendered?${query}`;
}
