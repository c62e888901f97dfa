"""Columns of a table as numbers: what was learned of each column of the training rows, and how a row is encoded by it.

Numbers become standard scores; a category becomes a place among those of its column, so that two different ones lie as
far apart as numbers one standard deviation apart (k-prototypes with gamma 1: Huang, Data Mining and Knowledge
Discovery 1998); a date becomes its day, and the time of year, week and day on circles; a text becomes the leading
components of its tf-idf. What a date or a text becomes varies together like one standard score. Where an encoder is
named, a text or a picture becomes that network's vector, of length one. So all encoded features have one unit. An
encoding is part of the model, as plain JSON and safetensors; of an encoder it holds name, version and hash of weights.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import safetensors.numpy

from raydc.data import encoders
from raydc.data.encoders import Encoder, EncoderError
from raydc.data.inputs import as_frame, to_arrow
from raydc.data.kinds import Stored, is_text
from raydc.data.source import DataError, UnusableRow, usable
from raydc.data.tfidf import Vocabulary, projected

ABOUT, ARRAYS = "encoding.json", "encoding.safetensors"
"""The files that make an encoding."""
APART = math.sqrt(0.5)
"""What stands in a category's place, so that two categories are 1 apart."""
OTHER, MISSING = "(other)", "(missing)"
ARROW: Mapping[Stored, pa.DataType] = {
    "truth": pa.bool_(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "text": pa.string(),
    "date": pa.timestamp("us"),
    "picture": pa.large_binary(),
}
"""How values of a column are held before they are encoded, whatever file or frame they come from."""
DAY = 86_400_000_000
"""Microseconds of a day."""
BLACK = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c636000000002000148afa471"
    "0000000049454e44ae426082"
)
"""A picture of one black pixel, as PNG."""
CYCLES = {"year": ("day_of_year", 366.0), "week": ("day_of_week", 7.0), "day": ("hour", 24.0)}
"""Circles of dates: what is taken of a date, and after how many of it the circle closes."""


@dataclass(frozen=True)
class NumberCode:
    """Standard scores."""

    mean: float
    spread: float
    kind: Literal["number"] = "number"

    @property
    def unit(self) -> tuple[float, float]:
        """What 0 and each 1 of the feature stand for in the column's values."""
        return self.mean, self.spread

    @property
    def parts(self) -> list[str]:
        return [""]

    def encode(self, values: pa.Array) -> np.ndarray:
        numbers = values.cast(pa.float64(), safe=False).fill_null(math.nan).to_numpy(zero_copy_only=False)
        return ((numbers - self.mean) / self.spread)[:, None]


@dataclass(frozen=True)
class CategoryCode:
    """A place for each level, one for all others, and one for missing values where the training rows had any."""

    levels: tuple[str, ...]
    missing: bool
    kind: Literal["category"] = "category"

    @property
    def parts(self) -> list[str]:
        return [f"={level}" for level in (*self.levels, OTHER, *([MISSING] if self.missing else []))]

    def encode(self, values: pa.Array) -> np.ndarray:
        names = values.cast(pa.string())
        at = pc.index_in(names, pa.array(self.levels, pa.string())).fill_null(len(self.levels)).to_numpy()
        if self.missing:
            at = np.where(names.is_null().to_numpy(zero_copy_only=False), len(self.levels) + 1, at)
        return APART * np.eye(len(self.parts))[at]


@dataclass(frozen=True)
class DateCode:
    """The day as a standard score, and where it is on circles of time: together they vary like one standard score."""

    mean: float
    """Days since 1970."""
    spread: float
    cycles: tuple[str, ...]
    kind: Literal["date"] = "date"

    @property
    def unit(self) -> tuple[float, float]:
        """What 0 and each 1 of the first feature stand for, in days since 1970."""
        return self.mean, self.spread * math.sqrt(1 + len(self.cycles))

    @property
    def parts(self) -> list[str]:
        return [": day", *(f": time of {name}, {wave}" for name in self.cycles for wave in ("cos", "sin"))]

    def encode(self, values: pa.Array) -> np.ndarray:
        days = values.cast(pa.int64()).cast(pa.float64()).fill_null(math.nan).to_numpy(zero_copy_only=False) / DAY
        columns = [(days - self.mean) / self.spread]
        for name in self.cycles:
            what, around = CYCLES[name]
            at = getattr(pc, what)(values).cast(pa.float64()).fill_null(math.nan).to_numpy(zero_copy_only=False)
            columns += [wave(2 * math.pi * at / around) for wave in (np.cos, np.sin)]
        return np.stack(columns, axis=1) / math.sqrt(1 + len(self.cycles))


@dataclass(frozen=True, eq=False)
class TextCode:
    """Components of tf-idf; a text without a known word lies at 0."""

    vocabulary: Vocabulary
    directions: np.ndarray
    """float64 [V, k]."""
    factor: float
    kind: Literal["text"] = "text"

    @property
    def parts(self) -> list[str]:
        return [f"[{i}]" for i in range(self.directions.shape[1])]

    def encode(self, values: pa.Array) -> np.ndarray:
        texts = values.fill_null("").to_pylist()
        return self.factor * projected(self.vocabulary.weighed(texts), self.directions)


@dataclass(frozen=True)
class EncoderCode:
    """Vectors of a frozen network, each of length one; a text without a word in it, and a broken picture, lies at 0."""

    encoder: str
    """Its name, as `raydc.data.encoders.load` takes it."""
    version: str
    digest: str
    """sha256 of its weights."""
    width: int
    kind: Literal["encoder"] = "encoder"

    @staticmethod
    def of(name: str) -> "EncoderCode":
        """The encoder that is here under this name; EncoderError where there is none."""
        found = encoders.load(name)
        return EncoderCode(name, found.version, found.digest, found.width)

    @property
    def parts(self) -> list[str]:
        return [f"[{i}]" for i in range(self.width)]

    @property
    def same(self) -> Encoder:
        """The encoder, if it is the very one; EncoderError says which is here in its place, or that none is."""
        found = encoders.load(self.encoder)
        if (found.version, found.digest) != (self.version, self.digest):
            raise EncoderError(
                f"the encoder {self.encoder} is {found.version} with weights {found.digest[:16]}, and the model was "
                f"trained on vectors of {self.version} with weights {self.digest[:16]}: install that, or train anew"
            )
        return found

    def taken(self, values: pa.Array) -> tuple[list[str] | np.ndarray, dict[int, str]]:
        """What the encoder takes of values as held: texts, or pixels uint8 [n, 3, H, W]; and what is wrong with
        pictures that cannot be decoded, by row.
        """
        if self.same.takes == "text":
            return values.fill_null("").to_pylist(), {}
        from raydc.data import decoding  # here, as few rows are pictures and Pillow takes time

        return decoding.decoded(values, self.same.size)

    def encode(self, taken: list[str] | np.ndarray) -> np.ndarray:
        """Vectors [n, width]; 0 of a text that is empty."""
        x = encoders.in_batches(self.same, taken)
        if isinstance(taken, list):
            x[[not text.strip() for text in taken]] = 0.0
        return x


Code = NumberCode | CategoryCode | DateCode | TextCode
"""What was learned of a column: `parts` are what its features are called behind its name, and `encode` takes values as
held to float64 [n, features], NaN where a missing value has no number of its own."""
CODES: Mapping[str, Any] = {
    "number": NumberCode, "category": CategoryCode, "date": DateCode, "encoder": EncoderCode
}  # fmt: skip
"""Codes that JSON holds as they are."""


@dataclass
class Encoded:
    """Rows as features."""

    x: np.ndarray
    """[n, D] float32."""
    nulls: np.ndarray
    """bool [n, D]: features of values that are missing and cannot be done without."""
    broken: dict[int, tuple[str, str]] = field(default_factory=dict)
    """(column, what is wrong) of rows whose picture cannot be decoded."""
    taken: dict[str, list[str] | np.ndarray] = field(default_factory=dict)
    """Of each column that an encoder encoded what it took: texts, or pixels uint8 [n, 3, H, W]."""

    @staticmethod
    def joined(parts: "Sequence[Encoded]") -> "Encoded":
        """Columns side by side."""
        x, nulls = (
            np.concatenate(each, axis=1) for each in zip(*((part.x, part.nulls) for part in parts), strict=True)
        )
        broken, taken = dict[int, tuple[str, str]](), dict[str, list[str] | np.ndarray]()
        for part in parts:
            broken, taken = part.broken | broken, taken | part.taken
        return Encoded(x, nulls, broken, taken)


@dataclass(frozen=True, eq=False)
class CodedColumn:
    """A column, how its values are held, and what was learned of them."""

    name: str
    stored: Stored
    code: Code | EncoderCode
    indicated: bool = False
    """Whether a feature of its own says where values are missing."""

    @property
    def features(self) -> list[str]:
        own = [f"{self.name}{part}" for part in self.code.parts]
        return [*own, f"{self.name} {MISSING}"] if self.indicated else own

    def encode(self, values: pa.Array, impute: bool) -> Encoded:
        """Features of values as held."""
        if isinstance(self.code, EncoderCode):
            taken, damaged = self.code.taken(values)
            x = self.code.encode(taken)
            broken = {row: (self.name, why) for row, why in damaged.items()}
            return Encoded(x, np.zeros(x.shape, bool), broken, {self.name: taken})
        x = self.code.encode(values)
        missing = np.isnan(x).any(axis=1)
        if impute:
            x[missing] = 0.0
        if self.indicated:
            x = np.column_stack([x, missing])
        nulls = np.repeat((missing & (not impute))[:, None], x.shape[1], axis=1)
        return Encoded(x.astype(np.float32), nulls)


@dataclass(frozen=True, eq=False)
class Encoding:
    """How rows of a table become rows of numbers, as the training rows did."""

    columns: tuple[CodedColumn, ...]
    impute: bool
    """Whether missing numbers and dates are taken for the mean; else their rows cannot be used."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoding) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns that are encoded."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def features(self) -> tuple[str, ...]:
        """What the encoded features are called, after the columns that they come from."""
        return tuple(feature for column in self.columns for feature in column.features)

    def column_of(self, feature: int) -> str:
        """The column that a feature comes from."""
        ends = np.cumsum([len(column.features) for column in self.columns])
        return self.names[int(np.searchsorted(ends, feature, side="right"))]

    @cached_property
    def spare(self) -> np.ndarray:
        """bool [D], features that training rows need not have: places for categories that are new."""
        return np.array([feature.endswith(f"={OTHER}") for feature in self.features])

    @cached_property
    def amounts(self) -> np.ndarray:
        """bool [D], features that are a column's numbers."""
        return np.array(
            [column.code.kind == "number" and not i for column in self.columns for i in range(len(column.features))]
        )

    @cached_property
    def digest(self) -> str:
        """sha256 of all of it."""
        return hashlib.sha256(b"".join(self.files().values())).hexdigest()

    @property
    def encoders(self) -> tuple[EncoderCode, ...]:
        """Of the columns that a network encodes."""
        return tuple(column.code for column in self.columns if isinstance(column.code, EncoderCode))

    @property
    def by(self) -> str:
        """The networks that encode columns, in words."""
        told = (f"{code.encoder} ({code.version}, weights {code.digest[:16]})" for code in self.encoders)
        return ", ".join(dict.fromkeys(told)) or "no encoder"

    def encode(self, table: pa.Table) -> Encoded:
        """Rows of these columns. DataError where a column does not hold what it held in training."""
        return Encoded.joined(
            [
                column.encode(held(table[column.name], column.name, column.stored), self.impute)
                for column in self.columns
            ]
        )

    def rows(self, data: Any) -> np.ndarray:
        """Rows [n, D] float32 of a frame, as `raydc.data.rows_of` takes it. UnusableRow says which cannot be used."""
        found = self.encode(to_arrow(as_frame(data, self.names)))
        good = usable(found.x)
        good[[*found.broken]] = False
        if not good.all():
            row, feature = (int(i) for i in np.argwhere(~good)[0])
            name, value = found.broken.get(row, (self.features[feature], f"{found.x[row, feature]:g} or null"))
            bad = int((~good.all(axis=1)).sum())
            said = f"row {row}, {name}: {value}; {bad} row(s) cannot be used, leave them out"
            raise UnusableRow(said, row, self.column_of(feature))
        return found.x

    def example(self, rows: int) -> pd.DataFrame:
        """Rows as the model takes them, made up."""
        values: dict[Stored, Any] = {
            "truth": True, "integer": 0, "number": 0.0, "text": "a", "date": pd.Timestamp("2020-01-01"),
            "picture": BLACK,
        }  # fmt: skip
        return pd.DataFrame({column.name: [values[column.stored]] * rows for column in self.columns})

    def files(self) -> dict[str, bytes]:
        """The encoding as files by name."""
        about, arrays = [], dict[str, np.ndarray]()
        for at, column in enumerate(self.columns):
            entry = {"name": column.name, "stored": column.stored, "indicated": column.indicated}
            code = column.code
            if isinstance(code, TextCode):
                arrays |= {f"{at}.idf": code.vocabulary.idf, f"{at}.directions": code.directions}
                about.append(entry | {"kind": "text", "words": code.vocabulary.words, "factor": code.factor})
            else:
                about.append(entry | asdict(code))
        text = json.dumps({"impute": self.impute, "columns": about}, indent=1, ensure_ascii=False)
        arrays = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
        return {ABOUT: text.encode(), ARRAYS: safetensors.numpy.save(arrays)}

    @staticmethod
    def of(files: Mapping[str, bytes]) -> "Encoding":
        """What `files` gave; KeyError, ValueError or SafetensorError where they are damaged."""
        about, arrays = json.loads(files[ABOUT]), safetensors.numpy.load(files[ARRAYS])
        columns = []
        for at, entry in enumerate(about["columns"]):
            name, stored, indicated, kind = (entry.pop(key) for key in ("name", "stored", "indicated", "kind"))
            if kind == "text":
                vocabulary = Vocabulary(tuple(entry["words"]), arrays[f"{at}.idf"])
                code: Code | EncoderCode = TextCode(vocabulary, arrays[f"{at}.directions"], entry["factor"])
            else:
                code = CODES[kind](**{key: _frozen(value) for key, value in entry.items()})
            columns.append(CodedColumn(name, stored, code, indicated))
        return Encoding(tuple(columns), about["impute"])


def held(column: pa.ChunkedArray, name: str, stored: Stored) -> pa.Array:
    """A column's values as they are held; an empty text is null. DataError where they cannot be."""
    values = column.combine_chunks()
    values = values.dictionary_decode() if isinstance(values, pa.DictionaryArray) else values
    if is_text(values.type) and stored in ("integer", "number"):
        raise DataError(f"column {name}: expected numbers, got text such as {_some(values)}")
    if pa.types.is_timestamp(values.type) and stored == "date":
        values = values.cast(pa.timestamp("us", values.type.tz), safe=False)
    try:
        values = values.cast(ARROW[stored])
    except pa.ArrowException as error:
        raise DataError(
            f"column {name}: {values.type}, such as {_some(values)}, where {stored} was trained on: {error}"
        ) from error
    if stored == "text":
        values = pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)
    return values


def _some(values: pa.Array) -> str:
    present = values.drop_null()
    return repr(str(present[0])[:40]) if len(present) else "null"


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
