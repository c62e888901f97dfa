"""What columns hold, and so how they are encoded: told by all rows, decided by rules, overridden by the user.

Everything is a count or a sum over row groups in the order of the data, so the result depends on the rows alone.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydc.core import nouns
from raydc.data.encoders import BUILTIN
from raydc.data.encoding import (
    CYCLES,
    DAY,
    CategoryCode,
    Code,
    CodedColumn,
    DateCode,
    EncoderCode,
    Encoding,
    NumberCode,
    TextCode,
    held,
)
from raydc.data.kinds import Stored, stored_as
from raydc.data.moments import FINE, Moments
from raydc.data.settings import DataSettings, Kind
from raydc.data.source import DataError, usable
from raydc.data.tfidf import COUNTED, Vocabulary, components, counted, projected, words_of

LEVELS = 100
"""Categories of a column that have a place of their own, at most: the most frequent ones."""
REPEATED = 2.0
"""Rows a text of a column of categories has on average, at least; fewer are names and keys, or texts."""
HELD = 2**26
"""Characters of different texts of a column that are held at the same time, about; beyond it, those seen once go."""
WORDS = 4.0
"""Words on average from which on values that hardly repeat are texts, and not names."""
MOSTLY = 0.9
"""Share of the texts of a column that are numbers from which on it is said that the others are not."""
NUMBER = re.compile(r"\s*[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?\s*")
LONG = {"year": 366.0, "week": 14.0, "day": 0.0}
"""Days that dates must span for a circle of time to count."""
PLURAL: Mapping[Kind, str] = {
    "category": "categories", "text": "texts", "date": "dates", "number": "numbers", "picture": "pictures"
}  # fmt: skip
Tables = Callable[[Sequence[str]], Iterator[pa.Table]]
"""All rows, some at a time in the order of the data, of these columns."""


@dataclass
class Tally:
    """What the rows so far hold in a column."""

    name: str
    stored: Stored
    asked: Kind | None
    """What the user says that it is."""
    counted: bool = False
    """Whether only missing values are counted, as an encoder takes the others as they are."""
    count: int = 0
    """Rows with a value."""
    nulls: int = 0
    moments: Moments = field(default_factory=lambda: Moments.of(np.zeros((0, 1))))
    """Of numbers, and of dates in days."""
    timed: bool = False
    """Whether a date has a time of day."""
    levels: Counter[str] = field(default_factory=Counter)
    characters: int = 0
    """Of all levels."""
    forgotten: int = 0
    """Levels that were seen once and are not counted any more."""
    texts_with: Counter[str] = field(default_factory=Counter)
    """Of each word, how many texts hold it."""
    words: int = 0
    """Over all texts."""

    def add(self, values: pa.Array) -> None:
        """Count values as held."""
        present = values.drop_null()
        self.nulls += values.null_count
        self.count += len(present)
        if self.counted:
            return
        if self.kinds & {"category", "text"}:
            self._add_levels(present)
        elif len(present):
            numbers = np.asarray(present.cast(pa.int64() if self.stored == "date" else pa.float64()), np.float64)
            if self.stored == "date":
                self.timed |= bool((numbers % DAY != 0).any())
                numbers = numbers / DAY
            self.moments = self.moments.merged(Moments.of(numbers[usable(numbers)][:, None]))

    @property
    def kinds(self) -> set[Kind]:
        """What it may be."""
        usual: dict[Stored, set[Kind]] = {
            "truth": {"category"}, "text": {"category", "text"}, "date": {"date"}, "picture": {"picture"}
        }  # fmt: skip
        return {self.asked} if self.asked else usual.get(self.stored, {"number"})

    @property
    def distinct(self) -> int:
        """Different texts, at most."""
        return len(self.levels) + self.forgotten

    def _add_levels(self, present: pa.Array) -> None:
        for found in pc.value_counts(present.cast(pa.string())).to_pylist():
            text, times = found["values"], found["counts"]
            self.characters += 0 if text in self.levels else len(text)
            self.levels[text] += times
            if "text" in self.kinds:
                self.words += times * counted(self.texts_with, text, times)
        if len(self.levels) > COUNTED or self.characters > HELD:
            once = [level for level, times in self.levels.items() if times == 1]
            self.forgotten += len(once)
            for level in once:
                del self.levels[level]
            self.characters = sum(map(len, self.levels))


@dataclass(frozen=True)
class Fitted:
    """What columns were found to be."""

    columns: tuple[str, ...]
    """Those that are features."""
    encoding: Encoding | None
    """None where they are numbers already."""
    notes: tuple[str, ...]


NUMBERS: frozenset[Stored] = frozenset({"truth", "integer", "number"})
"""What stands for itself: truth values as 0 and 1, where all others are numbers."""
REASONS: Mapping[str, str] = {
    "none": "without a value in any row",
    "one": "of one value in all rows",
    "names": "of another text in nearly each row, as names and keys have",
    "strange": "of texts that share no word",
    "apart": "as the encoder does not take it",
}
"""Why a column tells nothing of clusters."""


def fit(tables: Tables, schema: pa.Schema, settings: DataSettings) -> Fitted:
    """What these columns are, and their encoding.

    A column that the user neither named nor gave a type may be left out. Raises DataError where nothing remains, or a
    column cannot be what it is said to be.
    """
    asked, encoder = dict(settings.typed), None if settings.encoder is None else EncoderCode.of(settings.encoder)
    takes: Kind | None = encoder.same.takes if encoder else None
    tallies = [Tally(one.name, _stored(one, asked.get(one.name)), asked.get(one.name)) for one in schema]
    for tally in tallies:
        _require_possible(tally, settings.path)
        tally.counted = tally.stored == "picture" or (takes == "text" and tally.asked == "text")
    for table in tables(schema.names):
        for tally in tallies:
            tally.add(held(table[tally.name], tally.name, tally.stored))
    kinds = {tally.name: kind_of(tally, takes) for tally in tallies}
    named = {*asked, *(settings.columns or ())}
    if takes is not None:
        if takes not in kinds.values():
            raise DataError(
                f"data.encoder: {settings.encoder} takes {PLURAL[takes]}, and {settings.path} has no column of them; "
                f"name one by --data.types NAME={takes}"
            )
        kinds |= {name: "apart" for name, kind in kinds.items() if kind != takes and name not in named}
    left = {name: why for name, why in kinds.items() if why in REASONS and name not in named}
    kinds |= {name: "category" for name, why in kinds.items() if why in REASONS and name in named}
    kept = [tally for tally in tallies if tally.name not in left]
    if not kept:
        told = "; ".join(f"{name}: {REASONS[why]}" for name, why in left.items())
        raise DataError(f"{settings.path}: no column to cluster; name some with --columns. {told}")
    columns, notes = tuple(tally.name for tally in kept), (*_left(left),)
    if not asked and settings.missing == "error" and all(tally.stored in NUMBERS for tally in kept):
        return Fitted(columns, None, notes)
    codes: dict[str, Code | EncoderCode] = {}
    if encoder:
        codes |= {tally.name: encoder for tally in kept if kinds[tally.name] == takes}
    _refuse_pictures([tally.name for tally in kept if tally.stored == "picture" and tally.name not in codes], settings)
    texts = [tally for tally in kept if kinds[tally.name] == "text" and tally.name not in codes]
    codes |= _text_codes(tables, texts, settings.path) if texts else {}
    codes |= {tally.name: _code(tally, kinds[tally.name]) for tally in kept if tally.name not in codes}
    indicated = {
        tally.name
        for tally in kept
        if settings.missing == "indicate" and tally.nulls and kinds[tally.name] in ("number", "date")
    }
    coded = (CodedColumn(tally.name, tally.stored, codes[tally.name], tally.name in indicated) for tally in kept)
    return Fitted(columns, Encoding((*coded,), settings.missing != "error"), (*_taken(kept, codes), *notes))


def kind_of(tally: Tally, takes: Kind | None = None) -> str:
    """What a column is taken for, where an encoder `takes` texts or pictures; or one of REASONS for leaving it out."""
    if tally.asked:
        return tally.asked
    if tally.count == 0:
        return "none"
    if tally.stored == "picture":
        return "picture"
    if tally.stored != "text" and tally.stored != "truth":
        return "date" if tally.stored == "date" else "number"
    if tally.distinct == 1 and not tally.nulls:
        return "one"
    if tally.stored == "truth" or tally.distinct * REPEATED <= tally.count:
        return "category"
    if tally.words < WORDS * tally.count:
        return "names"
    return "text" if takes == "text" or Vocabulary.of(tally.texts_with, tally.count).words else "strange"


def _refuse_pictures(names: Sequence[str], settings: DataSettings) -> None:
    """DataError where columns of pictures have no encoder."""
    if names:
        raise DataError(
            f"{settings.path}: column {names[0]} holds bytes; pictures become numbers by an encoder that takes them: "
            f"name one by --data.encoder ({', '.join(BUILTIN)}, ...), or leave the column out"
        )


def _stored(one: pa.Field, asked: Kind | None) -> Stored:
    stored = stored_as(one.type)
    assert stored is not None, one  # columns.choose takes no others
    return "text" if asked == "text" and stored != "picture" else stored


def _require_possible(tally: Tally, path: str) -> None:
    fitting: dict[Kind, frozenset[Stored]] = {
        "number": NUMBERS, "date": frozenset({"date"}), "picture": frozenset({"picture"})
    }  # fmt: skip
    unfit = tally.stored not in fitting.get(tally.asked, {tally.stored}) if tally.asked else False
    if unfit or (tally.stored == "picture" and tally.asked not in (None, "picture")):
        raise DataError(
            f"data.types: {tally.name} in {path} is {tally.stored}, which cannot be taken for a {tally.asked}"
        )


def _code(tally: Tally, kind: str) -> Code:
    if kind == "category":
        levels = sorted(tally.levels, key=lambda level: (-tally.levels[level], level))[:LEVELS]
        return CategoryCode(tuple(sorted(levels)), tally.nulls > 0)
    mean, spread = 0.0, 1.0
    if tally.moments.count:
        mean = float(tally.moments.mean[0])
        found = float(np.sqrt(tally.moments.squares[0] / tally.moments.count))
        spread = found if found > FINE else spread
    if kind == "number":
        return NumberCode(mean, spread)
    span = float(tally.moments.highest[0] - tally.moments.lowest[0])
    cycles = tuple(name for name in CYCLES if span >= LONG[name] and (tally.timed or name != "day"))
    return DateCode(mean, spread, cycles)


def _text_codes(tables: Tables, tallies: Sequence[Tally], path: str) -> dict[str, Code]:
    """By two more passes over the texts: one for their components, one for how much these vary."""
    vocabularies = {tally.name: Vocabulary.of(tally.texts_with, tally.count) for tally in tallies}
    for name, vocabulary in vocabularies.items():
        if not vocabulary.words:
            raise DataError(
                f"{path}: column {name}: no word is in two texts and not in most of them, so nothing is alike; leave "
                f"the column out (--columns), or take it for categories (--data.types {name}=category)"
            )
    names = [*vocabularies]
    grams = {name: np.zeros((len(each.words), len(each.words))) for name, each in vocabularies.items()}
    for table in tables(names):
        for name, vocabulary in vocabularies.items():
            weighed = vocabulary.weighed(_texts(table, name))
            grams[name] += (weighed.T @ weighed).toarray()
    directions = {name: components(gram) for name, gram in grams.items()}
    moments = {name: Moments.of(np.zeros((0, each.shape[1]))) for name, each in directions.items()}
    for table in tables(names):
        for name, vocabulary in vocabularies.items():
            rows = projected(vocabulary.weighed(_texts(table, name)), directions[name])
            moments[name] = moments[name].merged(Moments.of(rows))
    found: dict[str, Code] = {}
    for name, each in moments.items():
        spread = float(np.sqrt(each.squares.sum() / each.count))
        found[name] = TextCode(vocabularies[name], directions[name], 1 / spread if spread > FINE else 1.0)
    return found


def _texts(table: pa.Table, name: str) -> list[str]:
    texts: list[str] = held(table[name], name, "text").fill_null("").to_pylist()
    return texts


def _left(left: Mapping[str, str]) -> Iterator[str]:
    """What was left out, a line a reason."""
    for why in dict.fromkeys(left.values()):
        names = [name for name, reason in left.items() if reason == why]
        yield f"left out, {REASONS[why]}: {', '.join(names)}; take one by --columns or --data.types"


def _taken(tallies: Sequence[Tally], codes: Mapping[str, Code | EncoderCode]) -> Iterator[str]:
    """What was decided, a line a kind; and what is odd of columns that hold texts."""
    told: dict[str, list[str]] = {kind: [] for kind in PLURAL}
    for tally in tallies:
        code = codes[tally.name]
        told[tally.stored if isinstance(code, EncoderCode) else code.kind].append(_told(tally, code))
    taken = [f"{plural}: {', '.join(told[kind])}" for kind, plural in PLURAL.items() if told[kind]]
    yield f"taken as {'; as '.join(taken)}; to have it otherwise: --data.types NAME={', '.join(PLURAL)}"
    for tally in tallies:
        numbers = sum(times for level, times in tally.levels.items() if NUMBER.fullmatch(level))
        if tally.stored == "text" and not tally.asked and MOSTLY * tally.count <= numbers < tally.count:
            other = next(level for level in tally.levels if not NUMBER.fullmatch(level))
            yield (
                f"column {tally.name} is text, but {numbers:,} of its {tally.count:,} values are numbers, and others "
                f"such as {other[:40]!r} are not; where those stand for no value, name them in --data.null_values"
            )
        if tally.stored == "text" and codes[tally.name].kind in ("text", "encoder") and (empty := _wordless(tally)):
            yield f"column {tally.name}: without a word, and so at 0: {nouns.counted(empty, 'text')}"


def _wordless(tally: Tally) -> int:
    """Texts that are empty or hold no word; of those that are only counted, the empty ones."""
    return tally.nulls + sum(times for level, times in tally.levels.items() if not words_of(level))


def _told(tally: Tally, code: Code | EncoderCode) -> str:
    """A column with what there is to know of its code."""
    if isinstance(code, EncoderCode):
        return f"{tally.name} (by {code.encoder}, {code.width} numbers)"
    if isinstance(code, CategoryCode):
        more = tally.distinct - len(code.levels)
        of = (
            f"{len(code.levels)} most frequent of {tally.distinct:,}, the others alike" if more else f"{tally.distinct}"
        )
        return f"{tally.name} ({of}{', and missing' if code.missing else ''})"
    if isinstance(code, TextCode):
        return f"{tally.name} ({len(code.vocabulary.words):,} words, {code.directions.shape[1]} components)"
    if isinstance(code, DateCode):
        return f"{tally.name} (day{''.join(f', time of {name}' for name in code.cycles)})"
    return tally.name
