// SPDX-License-Identifier: Apache-2.0
// Where a slice lies in the patient (PS3.3 C.7.6.2.1.1: +x left, +y posterior, +z head).

const NAMES = [["L", "R"], ["P", "A"], ["H", "F"]];

/** Letters of a direction, the strongest first; parts below a fifth are left out. */
export function letters(direction) {
  return direction
    .map((part, axis) => ({ part, letter: NAMES[axis][part > 0 ? 0 : 1] }))
    .filter(({ part }) => Math.abs(part) > 0.2)
    .sort((a, b) => Math.abs(b.part) - Math.abs(a.part))
    .map(({ letter }) => letter)
    .join("");
}

/** Letters at the edges of an image that is drawn with its columns to the right and its rows downwards. */
export function edgeLetters(orientation) {
  if (!orientation) return { left: "", right: "", top: "", bottom: "" };
  const along = orientation.slice(0, 3);
  const down = orientation.slice(3);
  const back = (direction) => direction.map((part) => -part);
  return { left: letters(back(along)), right: letters(along), top: letters(back(down)), bottom: letters(down) };
}

/** Distance of a slice along the normal of its plane [mm]; null where the header does not say. */
export function slicePosition(position, orientation) {
  if (!position || !orientation) return null;
  const [a, b, c, d, e, f] = orientation;
  const normal = [b * f - c * e, c * d - a * f, a * e - b * d];
  return normal.reduce((sum, part, axis) => sum + part * position[axis], 0);
}
