"""Pictures in a folder as rows of pixels: decoded, brought to one size, one file a row."""

import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import pyarrow.fs as pafs
from PIL import Image, ImageOps, UnidentifiedImageError

from raydc.data.columnar import glance
from raydc.data.decoded import DecodedSource
from raydc.data.listing import Listing
from raydc.data.settings import DataSettings
from raydc.data.source import Block, DataError, Layout, Piece, cut
from raydc.data.table import careful

SIZE = (32, 32)
"""Height and width that pictures are brought to, unless data.shape says otherwise."""
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
PATH, FOLDER = "path", "folder"
"""What there is of a picture besides its pixels: where it lies below the folder, and in which folder."""


class ImageSource(DecodedSource):
    """Pictures of a listing as uint8 [n, channels x height x width]; ids are their paths below the folder.

    One channel where all are grey, else three. A picture is turned as its camera says, laid on white where it is
    transparent, and cut in the middle to the shape of its row; of several frames the first counts. One that cannot be
    decoded is an unusable row. Opening reads headers; raises DataError if the settings ask for what pictures have not.
    """

    kind = "images"
    names = (PATH, FOLDER)

    def __init__(self, settings: DataSettings, filesystem: pafs.FileSystem, listing: Listing) -> None:
        _require_possible(settings)
        self.settings, self._filesystem = settings, filesystem
        self._paths = [found.path for found in listing.files]
        root = settings.path.rpartition("://")[2]
        inside = root if self._paths != [root] else os.path.dirname(root)
        self._ids = [os.path.relpath(path, inside) for path in self._paths]
        self.identified, self.notes = PATH, listing.notes
        self.files, self.times = {}, {}
        grey = True
        for found in listing.files:
            self.files[found.path], one = careful(partial(self._glance, found.path), found.path)
            self.times[found.path] = f"{found.size} {found.mtime_ns}"
            grey &= one
        shape = settings.shape or SIZE
        if len(shape) == 1:
            raise DataError(f"data.shape {shape[0]}: {settings.path} holds pictures; expected height,width")
        channels = shape[0] if len(shape) == 3 else (1 if grey else 3)
        if channels not in (1, 3):
            raise DataError(f"data.shape: pictures have 1 or 3 channels, got {channels}; give channels,height,width")
        self.layout, self.dtype = Layout.of((channels, *shape[-2:])), np.dtype(np.uint8)
        self.pieces = cut([(settings.path, 0, len(self._paths))], self.n_features)
        if settings.shape is None:
            self.notes += (
                f"pictures are brought to {SIZE[0]} x {SIZE[1]} pixels in {'grey' if channels == 1 else 'colour'}; "
                "another size: --data.shape height,width",
            )

    def decode(self, piece: Piece) -> Block:
        """The pictures of one piece, decoded."""
        x = np.zeros((piece.rows, self.n_features), np.uint8)
        broken: dict[int, tuple[str, str]] = {}
        for row in range(piece.rows):
            at = piece.start + row
            data = careful(partial(self._bytes, self._paths[at]), self._paths[at])
            try:
                x[row] = pixels(data, *self.layout.stored).reshape(-1)
            except DAMAGED as problem:
                broken[row] = (self._ids[at], _said(problem))
        ids = np.array(self._ids[piece.start : piece.start + piece.rows], object)
        return Block(x, ids, broken=broken)

    def labels(self) -> np.ndarray | None:
        """The folder of each picture, where data.label_column asks for it."""
        if self.settings.label_column is None:
            return None
        return np.array([os.path.basename(os.path.dirname(path)) for path in self._paths])

    def name_of(self, feature: int) -> str:
        """A pixel by its place."""
        channel, height, width = np.unravel_index(feature, self.layout.stored)
        return f"pixel[{channel},{height},{width}]"

    def _glance(self, path: str) -> tuple[str, bool]:
        """What tells a file's content, and whether its picture is grey, or none."""
        with self._filesystem.open_input_file(path) as stream, _undisturbed():
            mark = glance(stream)
            try:
                return mark, Image.open(stream, formats=READ).mode in GREY
            except DAMAGED:
                return mark, True

    def _bytes(self, path: str) -> bytes:
        with self._filesystem.open_input_file(path) as stream:
            found: bytes = stream.read()
        return found


def pixels(data: bytes, channels: int, height: int, width: int) -> np.ndarray:
    """A picture's file as uint8 [channels, height, width]. One of DAMAGED where it cannot be decoded."""
    with _undisturbed(), Image.open(io.BytesIO(data), formats=READ) as image:
        if image.width * image.height > MOST:
            raise ValueError(f"{image.width} x {image.height} pixels, more than the {MOST:,} that are decoded")
        image.draft("RGB" if channels == 3 else "L", (2 * width, 2 * height))  # JPEG is decoded smaller at once
        upright = ImageOps.exif_transpose(image)
        fitted = ImageOps.fit(_plain(upright, channels), (width, height), Image.Resampling.LANCZOS)
        values = np.asarray(fitted)
    return values[None] if channels == 1 else values.transpose(2, 0, 1)


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


def _said(problem: Exception) -> str:
    """What is wrong with a picture, in words that are the same each time."""
    if isinstance(problem, UnidentifiedImageError):
        return f"no picture in it that can be read ({', '.join(READ)})"
    return f"cannot be decoded: {problem}"


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Pillow warns of large pictures and odd metadata; what cannot be decoded is said by row."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _require_possible(settings: DataSettings) -> None:
    """DataError where settings name what pictures have not."""
    for setting in ("columns", "weight_column"):
        if getattr(settings, setting) is not None:
            raise DataError(f"data.{setting}: {settings.path} holds pictures, which have no columns; leave it out")
    if settings.types or settings.missing != "error":
        raise DataError(
            f"data.types and data.missing say what columns of a table are, and {settings.path} holds pictures; leave "
            "them out"
        )
    for setting, known in (("label_column", FOLDER), ("id_column", PATH)):
        if getattr(settings, setting) not in (None, known):
            raise DataError(f"data.{setting}: pictures in {settings.path} have {known} alone; name that or none")
