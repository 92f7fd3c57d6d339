// SPDX-License-Identifier: Apache-2.0
// The small viewer: studies, series of a study, slices of a series.  Where one is stands in the address:
// #/  #/studies/UID  #/studies/UID/series/UID  #/studies/UID/series/UID/slice/N
// Text from the archive reaches the page as text nodes only.

import { TAG, date, findSeries, findStudies, findStudy, personName, renderedUrl, text, thumbnailUrl, values }
  from "/pages/dicomweb.js";
import { PictureLoader, loadFrames, neighbourUrls } from "/pages/stack.js";

const STUDIES_A_PAGE = 50;
const byId = (id) => document.getElementById(id);
const views = ["studies-view", "study-view", "series-view"].map(byId);
const stage = byId("stage");

/** The series on show. */
const shown = { studyUid: "", seriesUid: "", frames: [], index: 0, direction: 1, window: null, unit: "" };
let visit = 0;

const loader = new PictureLoader(showPicture, (frame) => say(`Slice ${frame.instanceNumber} could not be loaded.`));

function element(name, content = "", className = "") {
  const made = document.createElement(name);
  made.textContent = content;
  if (className) made.className = className;
  return made;
}

function say(sentence) {
  byId("message").textContent = sentence;
  byId("message").hidden = !sentence;
}

function open(view, trail) {
  for (const one of views) one.hidden = one.id !== view;
  byId("trail").replaceChildren(...trail.map(([label, hash], place) => {
    const item = element("li");
    const link = element("a", label);
    link.href = hash;
    if (place === trail.length - 1) link.setAttribute("aria-current", "page");
    item.append(link);
    return item;
  }));
  document.title = [...trail.map(([label]) => label).reverse(), "ConePACS"].join(" - ");
}

async function route() {
  const mine = ++visit;
  const isCurrent = () => mine === visit;
  const [, studies, studyUid, series, seriesUid, slice, number] = location.hash.split("/").map(decodeURIComponent);
  if (seriesUid && seriesUid === shown.seriesUid && slice && !byId("series-view").hidden) {
    scrollTo(Number(number) - 1);
    return;
  }
  say("");
  loader.stop();
  try {
    if (studies === "studies" && studyUid && series === "series" && seriesUid) {
      await openSeries(studyUid, seriesUid, Number(number) || 0, isCurrent);
    } else if (studies === "studies" && studyUid) {
      await openStudy(studyUid, isCurrent);
    } else {
      open("studies-view", []);
      await listStudies(0, isCurrent);
    }
  } catch (error) {
    if (isCurrent()) say(error.message);
  }
}

// Studies ---------------------------------------------------------------------------------------------------------

async function listStudies(offset, isCurrent = () => true) {
  const keys = Object.fromEntries(new FormData(byId("search")));
  const found = await findStudies(keys, STUDIES_A_PAGE, offset);
  if (!isCurrent()) return;
  const rows = found.map(studyRow);
  if (offset === 0) byId("studies").replaceChildren(...rows);
  else byId("studies").append(...rows);
  const total = byId("studies").rows.length;
  byId("studies-note").textContent = total === 0 ? "No study matches." : `${total} ${total === 1 ? "study" : "studies"}`;
  byId("more-studies").hidden = found.length < STUDIES_A_PAGE;
}

function studyRow(study) {
  const row = element("tr");
  const hash = `#/studies/${text(study, TAG.studyUid)}`;
  row.dataset.studyUid = text(study, TAG.studyUid);
  const link = element("a", personName(study, TAG.patientName) || text(study, TAG.patientId) || "No name");
  link.href = hash;
  const name = element("td");
  name.append(link);
  row.append(
    name,
    element("td", text(study, TAG.patientId)),
    element("td", date(study, TAG.studyDate)),
    element("td", text(study, TAG.studyDescription), "wrap"),
    element("td", values(study, TAG.modalities).join(", ")),
    element("td", text(study, TAG.nSeries), "number"),
    element("td", text(study, TAG.nInstances), "number"),
  );
  row.addEventListener("click", () => { location.hash = hash; });
  return row;
}

// Series of a study -----------------------------------------------------------------------------------------------

function studyLabel(study) {
  return personName(study, TAG.patientName) || text(study, TAG.patientId) || "Study";
}

async function openStudy(studyUid, isCurrent) {
  const [study, series] = await Promise.all([findStudy(studyUid), findSeries(studyUid)]);
  if (!isCurrent()) return;
  byId("study-title").textContent = studyLabel(study);
  byId("study-facts").textContent = [
    text(study, TAG.patientId), date(study, TAG.studyDate), text(study, TAG.studyDescription),
    text(study, TAG.accession) && `accession ${text(study, TAG.accession)}`,
  ].filter(Boolean).join(" \u00b7 ");
  byId("series").replaceChildren(...series.map((one) => seriesCard(studyUid, one)));
  open("study-view", [[studyLabel(study), `#/studies/${studyUid}`]]);
}

function seriesLabel(series) {
  return text(series, TAG.seriesDescription) || `Series ${text(series, TAG.seriesNumber)}`;
}

function seriesCard(studyUid, series) {
  const seriesUid = text(series, TAG.seriesUid);
  const card = element("a", "", "card");
  card.href = `#/studies/${studyUid}/series/${seriesUid}`;
  card.dataset.seriesUid = seriesUid;
  const thumb = element("div", "", "thumb");
  const image = element("img");
  image.alt = "";
  image.loading = "lazy";
  image.src = thumbnailUrl(studyUid, seriesUid);
  image.addEventListener("error", () => image.replaceWith(element("span", "no preview")));
  thumb.append(image);
  const words = element("div", "", "words");
  const count = text(series, TAG.nSeriesInstances);
  words.append(
    element("strong", seriesLabel(series)),
    element("span", `Series ${text(series, TAG.seriesNumber)} \u00b7 ${text(series, TAG.modality)} \u00b7 ${count} images`),
  );
  card.append(thumb, words);
  const item = element("li");
  item.append(card);
  return item;
}

// Slices of a series ----------------------------------------------------------------------------------------------

async function openSeries(studyUid, seriesUid, sliceNumber, isCurrent) {
  const [study, allSeries, frames] = await Promise.all([
    findStudy(studyUid), findSeries(studyUid), loadFrames(studyUid, seriesUid)]);
  if (!isCurrent()) return;
  const series = allSeries.find((one) => text(one, TAG.seriesUid) === seriesUid);
  if (!series || frames.length === 0) throw new Error("The archive has no such series.");
  const middle = Math.floor(frames.length / 2);
  const label = seriesLabel(series);
  Object.assign(shown, { studyUid, seriesUid, frames, direction: 1, window: null, index: -1 });
  shown.unit = unitOf(frames[0].rescaleType, text(series, TAG.modality), label);
  delete stage.dataset.slice;
  byId("picture").removeAttribute("src");
  byId("series-title").textContent = label;
  byId("series-facts").textContent =
    `Series ${text(series, TAG.seriesNumber)} \u00b7 ${text(series, TAG.modality)} \u00b7 ${frames.length} slices`;
  byId("corner-patient").textContent =
    [studyLabel(study), text(study, TAG.patientId), date(study, TAG.studyDate), label].filter(Boolean).join("\n");
  byId("axes-note").hidden = Boolean(text(series, TAG.patientPosition)) || !frames[0].edges.left;
  byId("window-unit").textContent = shown.unit && `[${shown.unit}]`;
  byId("slice").max = frames.length;
  open("series-view", [[studyLabel(study), `#/studies/${studyUid}`], [label, location.hash]]);
  scrollTo(sliceNumber ? sliceNumber - 1 : middle);
  stage.focus({ preventScroll: true });
}

/** Unit of the values; without Rescale Type those of a CT are HU (PS3.3 C.11.1.1.2). */
function unitOf(rescaleType, modality, label) {
  if (rescaleType === "HU" || (!rescaleType && modality === "CT")) return "HU";
  return label.includes("1/mm") ? "1/mm" : "";
}

function scrollTo(index) {
  const last = shown.frames.length - 1;
  const next = Math.min(Math.max(Number.isFinite(index) ? index : 0, 0), last);
  if (next === shown.index) return;
  shown.direction = next < shown.index ? -1 : 1;
  shown.index = next;
  byId("slice").value = next + 1;
  byId("slice-output").textContent = `${next + 1} / ${last + 1}`;
  request();
}

/** Ask for the picture of the present slice and window. */
function request() {
  const { studyUid, seriesUid, frames, index, direction } = shown;
  const frame = frames[index];
  const { center, width } = shown.window ?? frame.window;
  for (const [id, value] of [["window-center", center], ["window-width", width]]) {
    if (document.activeElement !== byId(id)) byId(id).value = Number(value.toPrecision(5));
  }
  byId("corner-window").textContent = `C ${round(center)}  W ${round(width)} ${shown.unit}`;
  const url = renderedUrl(studyUid, seriesUid, frame, shown.window);
  loader.show(url, frame, neighbourUrls(studyUid, seriesUid, frames, index, direction, shown.window));
}

/** Put a loaded picture on the stage, with all that is said about it. */
function showPicture(url, frame) {
  const picture = byId("picture");
  picture.src = url;
  const place = shown.frames.indexOf(frame) + 1;
  const position = frame.positionMm === null ? "" : `${frame.positionMm.toFixed(2)} mm`;
  picture.alt = `Slice ${place} of ${shown.frames.length}${position && `, at ${position}`}`;
  stage.style.setProperty("--shape", frame.shape);
  for (const [edge, letter] of Object.entries(frame.edges)) {
    byId(`letter-${edge}`).textContent = letter;
    stage.dataset[edge] = letter;
  }
  byId("corner-slice").textContent = [`Slice ${place} / ${shown.frames.length}`, position].filter(Boolean).join("\n");
  stage.dataset.slice = place;
  stage.dataset.positionMm = frame.positionMm ?? "";
  stage.dataset.sopInstanceUid = frame.sopUid;
  say("");
}

function round(value) {
  return Number(value.toPrecision(4)).toString();
}

function setWindow(center, width) {
  if (!Number.isFinite(center) || !(width > 0)) return;
  shown.window = { center: Number(center.toPrecision(6)), width: Number(width.toPrecision(6)) };
  request();
}

// Events ----------------------------------------------------------------------------------------------------------

function listen() {
  window.addEventListener("hashchange", route);
  byId("search").addEventListener("submit", (event) => {
    event.preventDefault();
    listStudies(0).then(() => say(""), (error) => say(error.message));
  });
  byId("more-studies").addEventListener("click", () => {
    listStudies(byId("studies").rows.length).catch((error) => say(error.message));
  });
  byId("slice").addEventListener("input", (event) => scrollTo(Number(event.target.value) - 1));
  for (const id of ["window-center", "window-width"]) {
    byId(id).addEventListener("change", () => setWindow(byId("window-center").valueAsNumber, byId("window-width").valueAsNumber));
  }
  byId("window-reset").addEventListener("click", () => {
    shown.window = null;
    request();
  });
  listenToWheelAndKeys();
  listenToDrag();
}

function listenToWheelAndKeys() {
  let turned = 0;
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    // A notch of a wheel is about 100 pixels or 3 lines; touchpads send many small ones.
    turned += event.deltaY * (event.deltaMode === 1 ? 33 : 1);
    const steps = Math.trunc(turned / 60);
    if (steps !== 0) {
      turned -= steps * 60;
      scrollTo(shown.index + Math.sign(steps) * Math.max(1, Math.abs(steps) - 1));
    }
  }, { passive: false });
  stage.addEventListener("keydown", (event) => {
    const steps = {
      ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity,
    }[event.key];
    if (steps === undefined) return;
    event.preventDefault();
    scrollTo(Math.min(Math.max(shown.index + steps, 0), shown.frames.length - 1));
  });
}

function listenToDrag() {
  let start = null;
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || shown.frames.length === 0) return;
    stage.setPointerCapture(event.pointerId);
    start = { x: event.clientX, y: event.clientY, ...(shown.window ?? shown.frames[shown.index].window) };
  });
  stage.addEventListener("pointermove", (event) => {
    if (!start) return;
    const [dx, dy] = [event.clientX - start.x, event.clientY - start.y];
    if (dx || dy) setWindow(start.center + (dy * start.width) / 300, start.width * Math.exp(dx / 250));
  });
  for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, () => { start = null; });
}

listen();
route();
