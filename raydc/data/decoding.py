"""A picture's file as pixels of one size: 8 bits a channel, upright, on white where it is transparent."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps, UnidentifiedImageError

MOST = 2**26
"""Pixels of a picture at most, as its header states them: more are not decoded."""
READ = ("PNG", "JPEG", "TIFF", "WEBP")
"""Formats by Pillow's names; no other decoder is asked."""
DAMAGED = (
    OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises for files that it cannot decode."""
GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F")
"""Modes of one channel."""


def is_grey(stream: Any) -> bool:
    """Whether an open file's picture has one channel; also where there is none in it that can be read."""
    with _undisturbed():
        try:
            return Image.open(stream, formats=READ).mode in GREY
        except DAMAGED:
            return True


def pixels(data: bytes, channels: int, height: int, width: int) -> np.ndarray:
    """A picture's file as uint8 [channels, height, width]. One of DAMAGED where it cannot be decoded."""
    with _undisturbed(), Image.open(io.BytesIO(data), formats=READ) as image:
        if image.width * image.height > MOST:
            raise ValueError(f"{image.width:,} x {image.height:,} pixels, {_too_many(MOST)}")
        image.draft("RGB" if channels == 3 else "L", (2 * width, 2 * height))  # JPEG is decoded smaller at once
        upright = ImageOps.exif_transpose(image)
        fitted = ImageOps.fit(_plain(upright, channels), (width, height), Image.Resampling.LANCZOS)
        values = np.asarray(fitted)
    return values[None] if channels == 1 else values.transpose(2, 0, 1)


def decoded(files: pa.Array, size: int) -> tuple[np.ndarray, dict[int, str]]:
    """Pictures' files as uint8 [n, 3, size, size], and what is wrong with those that are none, by row."""
    x, damaged = np.zeros((len(files), 3, size, size), np.uint8), dict[int, str]()
    for row, data in enumerate(files.to_pylist()):
        try:
            x[row] = pixels(data, 3, size, size)
        except DAMAGED as problem:
            damaged[row] = "null" if data is None else said(problem)
    return x, damaged


def said(problem: Exception) -> str:
    """What is wrong with a picture, in words that are the same each time."""
    if isinstance(problem, UnidentifiedImageError):
        return f"no picture in it that can be read ({', '.join(READ)})"
    if isinstance(problem, Image.DecompressionBombError):  # Pillow refuses before it tells the size
        return f"cannot be decoded: {_too_many(min(MOST, 2 * (Image.MAX_IMAGE_PIXELS or MOST)))}"
    return f"cannot be decoded: {problem}"


def _too_many(most: int) -> str:
    return f"more than the {most:,} pixels that are decoded; make it smaller, or cut it into several"


def _plain(image: Image.Image, channels: int) -> Image.Image:
    """The picture in 8 bits a channel, on white where it is transparent."""
    mode = "L" if channels == 1 else "RGB"
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):  # Pillow would cut off what is beyond 255
        values = np.asarray(image, np.float64)
        most = 1.0 if image.mode == "F" and values.max(initial=0) <= 1 else 65535.0
        image = Image.fromarray(np.clip(255 * values / most, 0, 255).astype(np.uint8))
    elif "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert(mode)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Pillow warns of large pictures and odd metadata; what cannot be decoded is said by row."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
