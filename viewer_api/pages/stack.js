// SPDX-License-Identifier: Apache-2.0
// A series as a stack of frames: one picture on show, its neighbours fetched ahead.

import { TAG, findInstances, numbers, renderedUrl, text } from "/pages/dicomweb.js";
import { edgeLetters, slicePosition } from "/pages/geometry.js";

const AHEAD = 4;
const KEPT = 24;

/** Frames of a series in the order of their positions; by instance number where these are not known. */
export async function loadFrames(studyUid, seriesUid) {
  const frames = (await findInstances(studyUid, seriesUid)).flatMap((answer) => {
    const orientation = numbers(answer, TAG.orientation, 6);
    const spacing = numbers(answer, TAG.spacing, 2) ?? [1, 1];
    const common = {
      sopUid: text(answer, TAG.sopUid),
      instanceNumber: Number(text(answer, TAG.instanceNumber)) || 0,
      positionMm: slicePosition(numbers(answer, TAG.position, 3), orientation),
      edges: edgeLetters(orientation),
      shape: (Number(text(answer, TAG.columns)) * spacing[1]) / (Number(text(answer, TAG.rows)) * spacing[0]) || 1,
      window: headerWindow(answer),
      rescaleType: text(answer, TAG.rescaleType),
    };
    const nFrames = Math.max(Number(text(answer, TAG.nFrames)) || 1, 1);
    return Array.from({ length: nFrames }, (_, index) => ({ ...common, number: index + 1 }));
  });
  const placed = frames.every((frame) => frame.positionMm !== null);
  return frames.sort((a, b) =>
    (placed ? a.positionMm - b.positionMm : 0) || a.instanceNumber - b.instanceNumber || a.number - b.number);
}

/** First window of a header; else one that covers all stored values. */
function headerWindow(answer) {
  const center = Number(text(answer, TAG.center) || NaN);
  const width = Number(text(answer, TAG.width) || NaN);
  if (Number.isFinite(center) && width > 0) return { center, width };
  const slope = Math.abs(Number(text(answer, TAG.slope) || 1)) || 1;
  const range = slope * 2 ** (Number(text(answer, TAG.bitsStored)) || 16);
  const isSigned = text(answer, TAG.pixelRepresentation) === "1";
  return { center: Number(text(answer, TAG.intercept) || 0) + (isSigned ? 0 : range / 2), width: range };
}

/** Shows the latest wanted picture and none that is overtaken; fetches neighbours when there is nothing else to do. */
export class PictureLoader {
  constructor(onShow, onError) {
    this.onShow = onShow;
    this.onError = onError;
    this.kept = new Map();
    this.wanted = null;
    this.isBusy = false;
  }

  /** Ask for a frame; `neighbours` are the addresses to fetch afterwards, the nearest first. */
  show(url, detail, neighbours) {
    this.wanted = { url, detail, neighbours };
    if (!this.isBusy) this.#work();
  }

  /** Forget what was asked for. */
  stop() {
    this.wanted = null;
  }

  async #work() {
    this.isBusy = true;
    while (this.wanted) {
      const job = this.wanted;
      try {
        await this.#fetch(job.url);
        if (this.wanted === job) {
          this.wanted = null;
          this.onShow(job.url, job.detail);
          this.#fetchAhead(job.neighbours);
        }
      } catch {
        if (this.wanted === job) {
          this.wanted = null;
          this.onError(job.detail);
        }
      }
    }
    this.isBusy = false;
  }

  async #fetchAhead(urls) {
    for (const url of urls.slice(0, AHEAD)) {
      if (this.wanted) return;
      await this.#fetch(url).catch(() => {});
    }
  }

  #fetch(url) {
    let image = this.kept.get(url);
    this.kept.delete(url);
    if (!image) {
      image = new Image();
      image.src = url;
    }
    // The newest last: the oldest goes first.
    this.kept.set(url, image);
    if (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
    return image.decode();
  }
}

/** Addresses of the frames around one, in the direction of travel first. */
export function neighbourUrls(studyUid, seriesUid, frames, index, direction, windowing) {
  return [1, 2, -1, 3].map((step) => frames[index + step * direction]).filter(Boolean)
    .map((frame) => renderedUrl(studyUid, seriesUid, frame, windowing));
}
