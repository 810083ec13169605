"""A picture with a heading and a colour bar, on which slices are placed side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from voxcloud.report.mosaic_slices import Bools, Turned, Values
from voxcloud.report.ramps import LESS, MORE
from voxcloud.report.svg import tick_text, ticks

Bytes = npt.NDArray[np.uint8]

PICTURE_WIDTH = 930
BAR_WIDTH, HEADER, GAP = 62, 22, 2
LEVELS = 64  # shades: more are not told apart by eye, and compress worse
PAPER, INK, BLACK, WHITE = (255, 255, 255), (31, 41, 51), (0, 0, 0), (255, 255, 255)
UNKNOWN, OUTLINE = (204, 121, 167), (255, 176, 0)  # holes inside the head, contours and edges
CONVENTION = "left of the picture is the person's left"


def colour_table(colours: str) -> Bytes:
    """Return the colours of the shades from low to high."""
    at = np.linspace(0.0, 1.0, LEVELS)
    if colours == "gray":
        grey = np.round(255 * at)
        return np.stack([grey] * 3, axis=1).astype(np.uint8)
    if colours != "field":
        raise ValueError(f"expected the colours gray or field, found {colours!r}")
    stops = [*LESS[::-1], "#f7f7f7", *MORE]
    rgb = np.array([[int(s[k : k + 2], 16) for k in (1, 3, 5)] for s in stops], dtype=np.float64)
    places = np.linspace(0.0, 1.0, len(stops))
    return np.stack([np.round(np.interp(at, places, rgb[:, c])) for c in range(3)], axis=1).astype(np.uint8)


def _shades(values: Values, low: float, high: float) -> npt.NDArray[np.intp]:
    with np.errstate(invalid="ignore"):
        scaled = (np.nan_to_num(values, nan=low) - low) / (high - low)
    return np.clip(np.round(scaled * (LEVELS - 1)), 0, LEVELS - 1).astype(np.intp)


def painted(values: Values, known: Bools, low: float, high: float, table: Bytes) -> Bytes:
    """Return a slice in colour: black outside the head, pink where a value is missing inside it."""
    picture = table[_shades(values, low, high)]
    if not known.all():
        picture[~known] = BLACK
        picture[ndimage.binary_fill_holes(known) & ~known] = UNKNOWN
    return picture


def rim(mask: Bools) -> Bools:
    return np.asarray(mask & ~ndimage.binary_erosion(mask), dtype=bool)


class Sheet:
    """A picture with a heading, on which slices are placed from left to right, row by row."""

    def __init__(self, heading: str, cell: tuple[int, int], columns: int, rows: int, bar: bool, side: int = 0) -> None:
        self.cell, self.columns, self.side = cell, columns, side
        self.inner = (side + columns * (cell[0] + GAP) - GAP, rows * (cell[1] + GAP) - GAP)
        self.image = Image.new("RGB", (self.inner[0] + (BAR_WIDTH if bar else 0), self.inner[1] + HEADER), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.draw.rectangle((side, HEADER, self.inner[0] - 1, HEADER + self.inner[1] - 1), fill=BLACK)
        self.text((1, 3), heading, INK, 13)

    def text(
        self, place: tuple[float, float], words: str, ink: tuple[int, int, int], size: int, at: str = "la"
    ) -> None:
        """Write at a place; dark behind white letters, so that they can be read on any slice."""
        around: dict[str, Any] = {"stroke_width": 1, "stroke_fill": BLACK} if ink == WHITE else {}
        words = words.replace("\u2212", "-")  # the letters that come with Pillow have no minus sign
        self.draw.text(place, words, fill=ink, font=ImageFont.load_default(size), anchor=at, **around)

    def corner(self, position: int) -> tuple[int, int]:
        """Return the upper left corner of a cell."""
        row, column = divmod(position, self.columns)
        return self.side + column * (self.cell[0] + GAP), HEADER + row * (self.cell[1] + GAP)

    def place(self, position: int, picture: Bytes, label: str, sides: tuple[str, str] | None) -> None:
        """Put a slice into the middle of a cell, with its label and the letters of its sides."""
        x, y = self.corner(position)
        width, height = self.cell
        inset = (width - picture.shape[1]) // 2, (height - picture.shape[0]) // 2
        self.image.paste(Image.fromarray(np.ascontiguousarray(picture)), (x + inset[0], y + inset[1]))
        self.text((x + 4, y + height - 3), label, WHITE, 11, "ld")
        if sides is not None:
            self.text((x + 4, y + 3), sides[0], WHITE, 13, "la")
            self.text((x + width - 4, y + 3), sides[1], WHITE, 13, "ra")

    def bar(
        self,
        low: float,
        high: float,
        units: str,
        table: Bytes,
        *,
        marks: Sequence[tuple[float, str]] | None = None,
    ) -> None:
        """Draw the colours of the values, low below and high on top; ``marks``: which places are named, and how."""
        x, top = self.inner[0] + 10, HEADER + 20
        height = max(24, self.inner[1] - 34)
        strip = table[np.round(np.linspace(LEVELS - 1, 0, height)).astype(int)]
        self.image.paste(Image.fromarray(np.repeat(strip[:, None, :], 12, axis=1)), (x, top))
        self.draw.rectangle((x - 1, top - 1, x + 12, top + height), outline=INK)
        self.text((x - 4, HEADER), units, INK, 11)
        if marks is None:
            at = ticks(low, high, 5)
            step = at[1] - at[0] if len(at) > 1 else abs(high) or 1.0
            marks = [(value, tick_text(value, step)) for value in at]
        for value, words in marks:
            y = top + height - 1 - (value - low) / (high - low) * (height - 1)
            self.draw.line((x + 12, y, x + 15, y), fill=INK)
            self.text((x + 18, y), words, INK, 11, "lm")

    def png(self) -> bytes:
        """Return the bytes; equal pictures are equal bytes."""
        colours = self.image.quantize(128, dither=Image.Dither.NONE)
        return encoded(colours)


def encoded(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, format="PNG", compress_level=9)
    return out.getvalue()


def per_mm_of(turned: Turned, columns: int) -> float:
    left, right = turned.box[0]
    cell = (PICTURE_WIDTH - BAR_WIDTH + GAP) / columns - GAP
    return cell / ((right - left + 1) * turned.size_mm[0])
