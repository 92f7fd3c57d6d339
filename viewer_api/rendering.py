# SPDX-License-Identifier: Apache-2.0
"""From stored pixels to an 8-bit picture (PS3.4 N.2, PS3.3 C.11): functions of values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi, convert_color_space
from pydicom.pixels.utils import pixel_array

from viewer_api.errors import BadRequestError, RenderError
from viewer_api.media_types import JPEG

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

VoiFunction = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
_FUNCTIONS: dict[str, VoiFunction] = {
    "linear": "LINEAR",
    "linear-exact": "LINEAR_EXACT",
    "linear_exact": "LINEAR_EXACT",
    "sigmoid": "SIGMOID",
}
_SAMPLE_TYPES = {8: ("u1", "i1"), 16: ("<u2", "<i2"), 32: ("<u4", "<i4")}


@dataclass(frozen=True, slots=True)
class Window:
    """Centre and width in output units of the modality (HU, 1/mm), and the function between (PS3.3 C.11.2.1.2)."""

    center: float
    width: float
    function: VoiFunction


@dataclass(frozen=True, slots=True)
class Viewport:
    """Size of the wanted picture [px], and the part of the image that is shown; 0 wide is all of it."""

    width: int
    height: int
    source: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


def parse_window(text: str) -> Window:
    """Read ``window=center,width,function`` (PS3.18 8.3.5.1.4).

    Raises
    ------
    BadRequestError
        If it is malformed, or the width is out of what the function is defined for.
    """
    parts = text.split(",")
    function = _FUNCTIONS.get(parts[2].strip().lower()) if len(parts) == 3 else None
    if function is None:
        raise BadRequestError(
            f"window is '{text[:64]}', expected center,width,function (linear, linear-exact, sigmoid)."
        )
    center, width = _finite("window", parts[0], text), _finite("window", parts[1], text)
    _require_width(width, function)
    return Window(center, width, function)


def parse_viewport(text: str, largest_px: int) -> Viewport:
    """Read ``viewport=vw,vh[,sx,sy,sw,sh]`` (PS3.18 8.3.5.1.3).

    Raises
    ------
    BadRequestError
        If it is malformed, or a side is longer than `largest_px`.
    """
    parts = text.split(",")
    if len(parts) not in (2, 6):
        raise BadRequestError(f"viewport is '{text[:64]}', expected vw,vh or vw,vh,sx,sy,sw,sh.")
    width, height = (_finite("viewport", part, text) for part in parts[:2])
    if not (1 <= width <= largest_px and 1 <= height <= largest_px):
        raise BadRequestError(f"viewport is '{text[:64]}', expected sides of 1 to {largest_px} pixels.")
    source = tuple(_finite("viewport", part or "0", text) for part in parts[2:]) or (0.0,) * 4
    if min(source[:2]) < 0:
        raise BadRequestError(f"viewport is '{text[:64]}', its part of the image begins outside of the image.")
    return Viewport(int(width), int(height), (source[0], source[1], source[2], source[3]))


def stored_samples(header: Dataset, frame: bytes) -> NDArray[np.generic]:
    """Return one native little-endian frame as an array of stored values.

    Returns
    -------
    (row, col) or (row, col, sample)

    Raises
    ------
    RenderError
        If the header's sizes and the bytes contradict each other.
    """
    rows, cols = int(header.get("Rows", 0) or 0), int(header.get("Columns", 0) or 0)
    samples = int(header.get("SamplesPerPixel", 1) or 1)
    types = _SAMPLE_TYPES.get(int(header.get("BitsAllocated", 0) or 0))
    if types is None:
        raise RenderError(f"Instance {header.get('SOPInstanceUID')} has no pixels of 8, 16 or 32 bits.")
    pixels = np.frombuffer(frame, types[1 if header.get("PixelRepresentation", 0) else 0])
    if pixels.size != rows * cols * samples or not pixels.size:
        raise RenderError(
            f"Instance {header.get('SOPInstanceUID')} has {pixels.size} samples a frame, not {rows}x{cols}."
        )
    pixels = _sign_extended(pixels, header)
    if samples == 1:
        return pixels.reshape(rows, cols)
    if header.get("PlanarConfiguration", 0):
        return np.moveaxis(pixels.reshape(samples, rows, cols), 0, -1)
    return pixels.reshape(rows, cols, samples)


def decoded_samples(whole: Dataset, frame_index: int) -> NDArray[np.generic]:
    """Return one frame of an instance in any transfer syntax that pydicom decodes; colours as RGB.

    Raises
    ------
    RenderError
        If it does not.
    """
    try:
        return pixel_array(whole, index=frame_index)
    except (AttributeError, ValueError, RuntimeError, NotImplementedError, KeyError, IndexError) as error:
        raise RenderError(f"Instance {whole.get('SOPInstanceUID')} has pixels that cannot be decoded here.") from error


def render(header: Dataset, samples: NDArray[np.generic], window: Window | None) -> NDArray[np.uint8]:
    """Apply modality, VOI and presentation steps.

    Parameters
    ----------
    samples : (row, col) or (row, col, sample) stored values.
    window : asked for by the client; None: the first one of the header, or all values of the frame.

    Returns
    -------
    (row, col) or (row, col, 3) uint8
        Row 0 on top, column 0 on the left: never mirrored.
    """
    photometric = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
    if photometric == "PALETTE COLOR":
        colours = apply_color_lut(samples, header)
        return (colours >> 8 if colours.dtype == np.uint16 else colours).astype(np.uint8)
    if samples.ndim == 3:
        if photometric in ("YBR_FULL", "YBR_FULL_422") and samples.dtype == np.uint8:
            samples = convert_color_space(samples, photometric, "RGB")
        shift = max(int(header.get("BitsStored", 8)) - 8, 0)
        return (samples.astype(np.int64) >> shift).clip(0, 255).astype(np.uint8)
    values = _modality(header, samples)
    chosen = window or header_window(header)
    if chosen is None and header.get("VOILUTSequence"):
        shown = apply_voi(values.astype(np.int64), header).astype(np.float64)
        shown *= 255.0 / max(2.0 ** int(header.VOILUTSequence[0].LUTDescriptor[2]) - 1.0, 1.0)
    else:
        shown = apply_window(values, chosen or _full_range(values))
    if photometric == "MONOCHROME1":
        shown = 255.0 - shown
    return np.rint(shown).astype(np.uint8)


def header_window(header: Dataset) -> Window | None:
    """First window of a header; None if it has none that is valid."""
    center, width = _first_number(header.get("WindowCenter")), _first_number(header.get("WindowWidth"))
    if center is None or width is None or not width > 0:
        return None
    function = str(header.get("VOILUTFunction", "LINEAR"))
    if function == "SIGMOID":
        return Window(center, width, "SIGMOID")
    # LINEAR is not defined for widths below 1, which other makers write nevertheless.
    return Window(center, width, "LINEAR_EXACT" if function == "LINEAR_EXACT" or width < 1 else "LINEAR")


def apply_window(values: NDArray[np.floating], window: Window) -> NDArray[np.float64]:
    """Map values to 0 .. 255 (PS3.3 C.11.2.1.2.1 to .3)."""
    center, width = window.center, window.width
    if window.function == "SIGMOID":
        exponent = np.clip(-4.0 * (values.astype(np.float64) - center) / width, -700.0, 700.0)
        sigmoid: NDArray[np.float64] = 255.0 / (1.0 + np.exp(exponent))
        return sigmoid
    if window.function == "LINEAR":
        center, width = center - 0.5, width - 1.0
    if width == 0:
        # A width of 1: a threshold.
        return np.where(values <= center, 0.0, 255.0)
    scaled = ((values.astype(np.float64) - center) / width + 0.5) * 255.0
    clipped: NDArray[np.float64] = np.clip(scaled, 0.0, 255.0)
    return clipped


def encode_image(
    pixels: NDArray[np.uint8],
    media_type: str,
    *,
    viewport: Viewport | None = None,
    aspect: float = 1.0,
    quality: int = 90,
) -> bytes:
    """Write a picture as PNG or JPEG.

    Parameters
    ----------
    viewport : the picture is scaled to fit into it, its shape in mm kept; None: the image's own pixels.
    aspect : height over width of a pixel.
    quality : of a JPEG, 1 to 100.
    """
    image = Image.fromarray(pixels)
    if viewport is not None:
        image = _fitted(image, viewport, aspect)
    buffer = BytesIO()
    if media_type == JPEG:
        image.save(buffer, "JPEG", quality=quality)
    else:
        image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def pixel_aspect(header: Dataset) -> float:
    """Height over width of a pixel, 1 where the header does not say."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        pair = header.get(keyword)
        if pair is not None and not isinstance(pair, (str, float, int)) and len(pair) == 2:
            height, width = float(pair[0]), float(pair[1])
            if 0 < height < math.inf and 0 < width < math.inf and 1e-3 < height / width < 1e3:
                return height / width
    return 1.0


def _fitted(image: Image.Image, viewport: Viewport, aspect: float) -> Image.Image:
    """Cut out the wanted part, flip where its size is negative, and scale it into the viewport."""
    left, top, part_width, part_height = viewport.source
    right = min(left + abs(part_width), image.width) if part_width else image.width
    bottom = min(top + abs(part_height), image.height) if part_height else image.height
    if right - left < 1 or bottom - top < 1:
        raise BadRequestError(f"viewport shows no part of an image of {image.width} x {image.height} pixels.")
    scale = min(viewport.width / (right - left), viewport.height / ((bottom - top) * aspect))
    size = (max(round((right - left) * scale), 1), max(round((bottom - top) * aspect * scale), 1))
    resized = image.resize(size, Image.Resampling.BILINEAR, box=(left, top, right, bottom))
    if part_width < 0:
        resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if part_height < 0:
        resized = resized.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return resized


def _modality(header: Dataset, samples: NDArray[np.generic]) -> NDArray[np.floating]:
    """Stored values to output units."""
    if header.get("ModalityLUTSequence"):
        return np.asarray(apply_modality_lut(samples, header), dtype=np.float64)
    slope, intercept = _first_number(header.get("RescaleSlope")), _first_number(header.get("RescaleIntercept"))
    return samples.astype(np.float64) * (1.0 if slope is None else slope) + (intercept or 0.0)


def _full_range(values: NDArray[np.floating]) -> Window:
    """A window from the least to the largest value."""
    low, high = float(values.min()), float(values.max())
    return Window((low + high) / 2, max(high - low, 1e-12), "LINEAR_EXACT")


def _sign_extended(pixels: NDArray[np.generic], header: Dataset) -> NDArray[np.generic]:
    """Drop bits above Bits Stored, which old instances use for overlays."""
    allocated, stored = pixels.dtype.itemsize * 8, int(header.get("BitsStored", 0) or 0)
    unused = allocated - stored
    if not 0 < unused < allocated or int(header.get("HighBit", stored - 1)) != stored - 1:
        return pixels
    shifted: NDArray[np.generic] = (pixels << unused) >> unused  # type: ignore[operator]
    return shifted


def _first_number(value: object) -> float | None:
    """The first of one or several numbers; None if there is none."""
    if value is None or value == "":
        return None
    if isinstance(value, MultiValue):
        value = next(iter(value), None)
    try:
        number = float(str(value))
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _finite(name: str, part: str, text: str) -> float:
    """One number of a parameter."""
    try:
        number = float(part)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadRequestError(f"{name} is '{text[:64]}', '{part[:32]}' is not a number.")
    return number


def _require_width(width: float, function: VoiFunction) -> None:
    """Widths for which the functions are defined (PS3.3 C.11.2.1.2.1 and .3)."""
    if function == "LINEAR" and width < 1:
        raise BadRequestError(f"window has a width of {width:g}, linear needs 1 or more; use linear-exact.")
    if width <= 0:
        raise BadRequestError(f"window has a width of {width:g}, expected more than 0.")
