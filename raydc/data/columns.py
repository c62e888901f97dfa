"""Which columns of a table are features, decided by name and type before a value is read."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raydc.data.kinds import TENSORS, extension_of, identifies, is_list, is_number, plain, storage_of, stored_as
from raydc.data.settings import DataSettings, Kind
from raydc.data.source import DataError, Layout

LOOKS_LIKE_LABEL = re.compile(r"y|labels?|targets?|class(es)?|.*_label", re.IGNORECASE)
LOOKS_LIKE_ID = re.compile(
    r"ids?|index|idx|row_?(id|index|idx|number|num|no|nr)|[ug]u?id|.*_([ug]u?)?id|.*_(key|pk)|.*[a-z](?-i:Id|ID)|"
    r"(level|__index_level)_\d+(__)?|unnamed: ?\d+.*|",
    re.IGNORECASE,
)
PARTS = ("label_column", "id_column", "weight_column")
"""Settings that name a column which is no feature."""
KEY_ROWS = 2048
"""Rows that are looked at for whether a column of integers is a key, at most."""
ENCODED: frozenset[Kind] = frozenset({"text", "picture"})
"""Kinds of columns that encoders take."""
FEW = 50
"""Of fewer rows nothing is said."""
INDEX, PARTITION, PARTLY = "pandas' index", "names of folders", "in some of the files alone"
KEY = "another integer in each row, as keys have"
"""Why a column is no feature unless it is named."""


@dataclass(frozen=True)
class Columns:
    """The parts that the columns of a table play."""

    features: tuple[str, ...]
    encoded: bool
    """Features are learned to be numbers, as some are none, or are to be taken for something else."""
    listed: bool
    """One column holds all features of a row, as a list or tensor."""
    layout: Layout | None
    """Of a row; None for a list column, whose length only its values tell."""
    label: str | None
    id: str | None
    weight: str | None
    notes: tuple[str, ...]


def pandas_index(schema: pa.Schema) -> set[str]:
    """Columns in which pandas stored its index."""
    try:
        columns = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))["index_columns"]
    except (ValueError, KeyError, TypeError):
        return set()
    return {name for name in columns if isinstance(name, str)}


def is_key(values: np.ndarray, total: int) -> bool:
    """Whether a column of integers, of which these `values` [n] of `total` rows are known, numbers or names rows.

    All differ, and besides that they ascend or descend, or would repeat if they were drawn by chance from their range
    (n^2 / 2 pairs, ten times as many as places), or are spread evenly over it, as handed out and hashed keys are and
    counts or amounts are not (Kolmogorov's test of the uniform distribution at 5 %).
    """
    n = len(values)
    if n < FEW or len(ordered := np.unique(values)) < n:
        return False
    if (values[1:] > values[:-1]).all() or (values[1:] < values[:-1]).all():
        return True
    span = int(ordered[-1]) - int(ordered[0])
    if 2 * (span + 1) < total:  # too few places for all rows to differ
        return False
    if n * n > 20 * (span + 1):
        return True
    places = (ordered.astype(object) - int(ordered[0])).astype(np.float64) / span
    return bool(np.abs(places - np.linspace(0, 1, n)).max() < 1.36 / np.sqrt(n))


def choose(schema: pa.Schema, settings: DataSettings, apart: Mapping[str, str] | None = None) -> Columns:
    """Features, label, id and weight of a table with this schema; raises DataError where the choice is the user's.

    `apart` are columns that are no features unless the user names them, with the reason.
    """
    known = schema.names
    twice = sorted({name for name in known if known.count(name) > 1})
    if twice:
        raise DataError(f"{settings.path}: several columns are called {', '.join(twice)}; give each a name of its own")
    for setting in PARTS:
        if (name := getattr(settings, setting)) is not None:
            _need([name], known, f"data.{setting}", settings.path)
    weight = settings.weight_column
    if weight is not None and (extension_of(schema.field(weight)) or not is_number(schema.field(weight).type)):
        raise DataError(
            f"data.weight_column: {weight} in {settings.path} is {schema.field(weight).type}, expected numbers"
        )
    if weight is not None and weight in (settings.label_column, settings.id_column):
        raise DataError(
            f"data.weight_column: {weight} is the label or id column too; weights must be a column of their own"
        )
    label = settings.label_column
    if label is not None and pa.types.is_nested(plain(storage_of(schema.field(label)))):
        raise DataError(
            f"data.label_column: {label} in {settings.path} is {schema.field(label).type}, expected one class in each "
            "row: a number, text, truth value or time"
        )
    notes: list[str] = []
    named = {label, weight}
    id_column = settings.id_column or next(
        (
            f.name
            for f in schema
            if f.name.lower() == "id" and identifies(f) and f.name not in named and f.name not in (apart or {})
        ),
        None,
    )
    if id_column is not None and not identifies(schema.field(id_column)):
        raise DataError(
            f"{settings.path}: column {id_column} is {schema.field(id_column).type}; ids are integers or text, or what "
            "is written down as text: uuids, bytes (as hex), decimals, dates and times"
        )
    _need(settings.typed, known, "data.types", settings.path)
    if settings.columns is not None:
        features = _named(schema, settings)
        if id_column in features and settings.id_column is None:
            id_column = None
    else:
        features = _found(schema, settings, id_column, apart or {}, notes)
    if id_column is not None and settings.id_column is None:
        notes.append(f"column {id_column} identifies rows; name another one with --id-column")
    first = schema.field(features[0])
    listed = is_list(storage_of(first))
    layout = _layout(first, settings) if listed else Layout.of((len(features),))
    asked = bool(settings.types) or settings.missing != "error" or settings.encoder is not None
    if listed and asked:
        raise DataError(
            f"data.types, data.missing and data.encoder are of columns of a table, and {first.name} in {settings.path} "
            "holds all features of a row; leave them out"
        )
    encoded = not listed and (asked or not all(is_number(schema.field(name).type) for name in features))
    return Columns(features, encoded, listed, layout, label, id_column, weight, tuple(notes))


def _need(names: Iterable[str], known: Sequence[str], setting: str, path: str) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"its columns: {_listed(known)}"
            raise DataError(f"{setting}: {path} has no column {name}; {hint}")


def _named(schema: pa.Schema, settings: DataSettings) -> tuple[str, ...]:
    """The features that the user named, if they can be features together."""
    names = settings.columns or ()
    _need(names, schema.names, "data.columns", settings.path)
    for setting in PARTS:
        if (name := getattr(settings, setting)) in names:
            raise DataError(f"data.columns: {name} is data.{setting} too; a feature must not be either")
    lists = [name for name in names if is_list(storage_of(schema.field(name)))]
    if lists and len(names) > 1:
        raise DataError(f"data.columns: {lists[0]} holds a list in each row, so it must be the only one named")
    for name in names:
        field = schema.field(name)
        _need_known_extension(field, settings.path)
        encodes = settings.encoder is not None or settings.encoding is not None
        if not lists and stored_as(field.type) in ((None,) if encodes else (None, "picture")):
            raise DataError(
                f"data.columns: {name} in {settings.path} is {field.type}; features must be numbers, truth values, "
                "texts or dates; bytes are pictures, where --data.encoder names what encodes them"
            )
    return names


def _found(
    schema: pa.Schema, settings: DataSettings, id_column: str | None, apart: Mapping[str, str], notes: list[str]
) -> tuple[str, ...]:
    """The features when none were named: the one list column, else every number, text and date that is no label, id or
    `apart`.
    """
    taken = {settings.label_column, settings.weight_column, id_column}
    others = [field for field in schema if field.name not in taken and field.name not in apart]
    for reason in dict.fromkeys(apart.values()):
        names = [name for name in schema.names if apart.get(name) == reason and name not in taken]
        if names:
            notes.append(f"left out, {reason}: {_listed(names)}; take one by --columns, --label-column or --id-column")
    lists = [field.name for field in others if is_list(storage_of(field))]
    if len(lists) > 1:
        raise DataError(f"{settings.path}: {_listed(lists)} each hold a list per row; choose one with --columns")
    fit = [field.name for field in others if extension_of(field) is None and _found_fit(field, settings)]
    if lists:
        _need_known_extension(schema.field(lists[0]), settings.path)
        if fit:
            notes.append(
                f"features are column {lists[0]}; left out: {_listed(fit)} (ids: --id-column, classes: --label-column)"
            )
        return (lists[0],)
    labels = [name for name in fit if LOOKS_LIKE_LABEL.fullmatch(name) and name not in settings.typed]
    ids = [name for name in fit if LOOKS_LIKE_ID.fullmatch(name) and name not in settings.typed]
    features = tuple(name for name in fit if name not in labels and name not in ids)
    unread = [field for field in others if field.name not in fit]
    rest = [f"{field.name} ({field.type})" for field in unread if stored_as(field.type) in (None, "picture")]
    untaken = [field.name for field in unread if stored_as(field.type) not in (None, "picture")]
    if not features:
        kinds = _listed([f"{field.name} ({field.type})" for field in schema])
        raise DataError(f"{settings.path}: no column to cluster; name some with --columns. Columns: {kinds}")
    numbers = [name for name in fit if is_number(schema.field(name).type)]
    coordinates = {"x", "y"} <= {name.lower() for name in numbers}
    if coordinates and any(name.lower() == "y" for name in labels):
        raise DataError(
            f"{settings.path}: y may be a coordinate beside x or the rows' class; name the features with --columns, or "
            "the classes with --label-column y"
        )
    if labels:
        notes.append(f"left out as labels: {_listed(labels)}; score with --label-column, or name in --columns")
    if ids:
        notes.append(f"left out as ids: {_listed(ids)}; take with --id-column, or name in --columns")
    if untaken:
        notes.append(f"left out, as the encoder does not take it: {_listed(untaken)}; take one by --columns")
    if rest:
        notes.append(f"left out, neither numbers, texts nor dates: {_listed(rest)}")
    return features


def _found_fit(field: pa.Field, settings: DataSettings) -> bool:
    """Whether a column may be a feature although none is named; bytes are where they are said to be pictures."""
    if settings.encoder is not None and {*settings.typed.values()} & ENCODED:
        return settings.typed.get(field.name) in ENCODED
    stored = stored_as(field.type)
    pictured = settings.encoder is not None or field.name in settings.typed
    return stored is not None and (stored != "picture" or pictured)


def _need_known_extension(field: pa.Field, path: str) -> None:
    extension = extension_of(field)
    if extension is not None and extension not in TENSORS:
        raise DataError(
            f"{path}: column {field.name} has the extension type {extension}, which is not read because its metadata "
            "may carry code; write it as a list, fixed-size list or tensor column"
        )


def _layout(field: pa.Field, settings: DataSettings) -> Layout | None:
    """How a list or tensor column's rows lie, where its type says it."""
    extension, kind = extension_of(field), storage_of(field)
    if extension == "arrow.fixed_shape_tensor":
        stored = [int(size) for size in field.type.shape]
        return Layout.of(stored, field.type.permutation)
    if extension is not None:
        if isinstance(field.type, pa.BaseExtensionType):
            return Layout.of([int(size) for size in field.type.shape])
        metadata = (field.metadata or {}).get(b"ARROW:extension:metadata", b"")
        try:
            return Layout.of([int(size) for size in json.loads(metadata)])
        except (ValueError, TypeError):
            raise DataError(
                f"{settings.path}: column {field.name} is a Ray tensor whose shape is not written as JSON (before "
                "Ray 2.55 it could carry code, so it is not read); write it again with a newer Ray"
            ) from None
    return Layout.of((kind.list_size,)) if pa.types.is_fixed_size_list(kind) else None


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more])
