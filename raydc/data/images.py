"""Pictures in a folder as rows of pixels: decoded, brought to one size, one file a row."""

import os
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from raydc.data.columnar import glance
from raydc.data.decoded import DecodedSource
from raydc.data.decoding import DAMAGED, is_grey, pixels, said
from raydc.data.encoders import EncoderError
from raydc.data.encoding import ARROW, CodedColumn, EncoderCode, Encoding
from raydc.data.listing import Listing
from raydc.data.settings import DataSettings
from raydc.data.source import Block, DataError, Layout, Piece, cut
from raydc.data.table import careful

SIZE = (32, 32)
"""Height and width that pictures are brought to, unless data.shape says otherwise."""
PATH, FOLDER = "path", "folder"
"""What there is of a picture besides its pixels: where it lies below the folder, and in which folder."""
PICTURE = "image"
"""What the column is called that files are, for an encoding."""


class _Pictures(DecodedSource):
    """Pictures of a listing; ids are their paths below the folder.

    A picture is turned as its camera says, laid on white where it is transparent, and cut in the middle to its shape;
    of several frames the first counts. One that cannot be decoded is an unusable row. Opening reads headers; raises
    DataError if the settings ask for what pictures have not.
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
        self._grey = True
        """Whether all pictures have one channel."""
        for found in listing.files:
            self.files[found.path], one = careful(partial(self._glance, found.path), found.path)
            self.times[found.path] = f"{found.size} {found.mtime_ns}"
            self._grey &= one

    def _lay_out(self, layout: Layout, dtype: type) -> None:
        self.layout, self.dtype = layout, np.dtype(dtype)
        self.pieces = cut([(self.settings.path, 0, len(self._paths))], self.n_features)

    def labels(self) -> np.ndarray | None:
        """The folder of each picture, where data.label_column asks for it."""
        if self.settings.label_column is None:
            return None
        return np.array([os.path.basename(os.path.dirname(path)) for path in self._paths])

    def file_of(self, piece: Piece, row: int) -> str:
        """A picture's path."""
        return self._paths[piece.start + row]

    def _glance(self, path: str) -> tuple[str, bool]:
        """What tells a file's content, and whether its picture is grey, or none."""
        with self._filesystem.open_input_file(path) as stream:
            return glance(stream), is_grey(stream)

    def _files(self, piece: Piece) -> tuple[list[bytes], np.ndarray]:
        """The files of a piece, and their ids."""
        rows = slice(piece.start, piece.start + piece.rows)
        return [careful(partial(self._bytes, path), path) for path in self._paths[rows]], np.array(
            self._ids[rows], object
        )

    def _bytes(self, path: str) -> bytes:
        with self._filesystem.open_input_file(path) as stream:
            found: bytes = stream.read()
        return found


class ImageSource(_Pictures):
    """Pictures as uint8 [n, channels x height x width]; of one channel where all are grey, else three."""

    def __init__(self, settings: DataSettings, filesystem: pafs.FileSystem, listing: Listing) -> None:
        super().__init__(settings, filesystem, listing)
        shape = settings.shape or SIZE
        if len(shape) == 1:
            raise DataError(f"data.shape {shape[0]}: {settings.path} holds pictures; expected height,width")
        channels = shape[0] if len(shape) == 3 else (1 if self._grey else 3)
        if channels not in (1, 3):
            raise DataError(f"data.shape: pictures have 1 or 3 channels, got {channels}; give channels,height,width")
        self._lay_out(Layout.of((channels, *shape[-2:])), np.uint8)
        if settings.shape is None:
            self.notes += (
                f"pictures are brought to {SIZE[0]} x {SIZE[1]} pixels in {'grey' if channels == 1 else 'colour'}; "
                "another size: --data.shape height,width",
            )

    def decode(self, piece: Piece) -> Block:
        """The pictures of one piece, decoded."""
        files, ids = self._files(piece)
        x = np.zeros((piece.rows, self.n_features), np.uint8)
        broken: dict[int, tuple[str, str]] = {}
        for row, data in enumerate(files):
            try:
                x[row] = pixels(data, *self.layout.stored).reshape(-1)
            except DAMAGED as problem:
                broken[row] = (PICTURE, said(problem))
        return Block(x, ids, broken=broken)

    def name_of(self, feature: int) -> str:
        """A pixel by its place."""
        channel, height, width = np.unravel_index(feature, self.layout.stored)
        return f"pixel[{channel},{height},{width}]"


class EncodedImages(_Pictures):
    """Pictures as vectors of an encoder, float32 [n, D]."""

    def __init__(self, settings: DataSettings, filesystem: pafs.FileSystem, listing: Listing) -> None:
        super().__init__(settings, filesystem, listing)
        encoding = settings.encoding or of_pictures(settings)
        (column,) = encoding.columns if len(encoding.columns) == 1 else (None,)
        if column is None or column.stored != "picture":
            raise DataError(
                f"{settings.path} holds pictures, and the model encodes {', '.join(encoding.names)} of a table"
            )
        if settings.shape is not None:
            raise DataError(f"data.shape: an encoder brings the pictures in {settings.path} to its own; leave it out")
        self.settings, self.encoding, self.columns = settings.with_encoding(encoding), encoding, encoding.names
        self._column = column
        self._lay_out(Layout.of((len(encoding.features),)), np.float32)

    def decode(self, piece: Piece) -> Block:
        """The pictures of one piece, decoded and encoded."""
        files, ids = self._files(piece)
        found = self._column.encode(pa.array(files, ARROW["picture"]), impute=False)
        return Block(found.x, ids, broken=found.broken, taken=found.taken)


def of_pictures(settings: DataSettings) -> Encoding:
    """The encoding of pictures by the encoder that the settings name; EncoderError if that takes none."""
    code = EncoderCode.of(settings.encoder or "")
    if code.same.takes != "picture":
        raise EncoderError(f"data.encoder: {code.encoder} takes texts, and {settings.path} holds pictures")
    return Encoding((CodedColumn(PICTURE, "picture", code),), impute=False)


def _require_possible(settings: DataSettings) -> None:
    """DataError where settings name what pictures have not."""
    for setting in ("weight_column",) if settings.encoding else ("columns", "weight_column"):
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
