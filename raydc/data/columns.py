"""Which columns of a table are features, decided by name and type before a value is read."""

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from raydc.data.settings import DataSettings
from raydc.data.source import DataError, Layout

LOOKS_LIKE_LABEL = re.compile(r"y|labels?|targets?|class(es)?|.*_label", re.IGNORECASE)
LOOKS_LIKE_ID = re.compile(r"ids?|index|idx|.*_id|__index_level_\d+__", re.IGNORECASE)
PARTS = ("label_column", "id_column", "weight_column")
"""Settings that name a column which is no feature."""
TENSORS = {"arrow.fixed_shape_tensor", "ray.data.arrow_tensor", "ray.data.arrow_tensor_v2"}
"""Extension types that are read, by their storage alone; any other could carry code in its metadata."""


@dataclass(frozen=True)
class Columns:
    """The parts that the columns of a table play."""

    features: tuple[str, ...]
    listed: bool
    """One column holds all features of a row, as a list or tensor."""
    layout: Layout | None
    """Of a row; None for a list column, whose length only its values tell."""
    label: str | None
    id: str | None
    weight: str | None
    notes: tuple[str, ...]


def extension_of(field: pa.Field) -> str | None:
    """Name of a column's extension type, registered in this process or not."""
    if isinstance(field.type, pa.BaseExtensionType):
        return str(field.type.extension_name)
    name = (field.metadata or {}).get(b"ARROW:extension:name")
    return name.decode(errors="replace") if name is not None else None


def storage_of(field: pa.Field) -> pa.DataType:
    """How a column's values are stored, extension or not."""
    return field.type.storage_type if isinstance(field.type, pa.BaseExtensionType) else field.type


def is_list(kind: pa.DataType) -> bool:
    """Whether each value is a flat list of numbers."""
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return listed and is_number(kind.value_type)


def is_number(kind: pa.DataType) -> bool:
    """Whether values are numbers (truth values count as 0 and 1)."""
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return numeric or pa.types.is_decimal(kind) or pa.types.is_boolean(kind)


def plain(kind: pa.DataType) -> pa.DataType:
    """The type of the values themselves, dictionary-encoded or not."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_text(kind: pa.DataType) -> bool:
    """Whether values are text."""
    kind = plain(kind)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def choose(schema: pa.Schema, settings: DataSettings) -> Columns:
    """Features, label, id and weight of a table with this schema; raises DataError where the choice is the user's."""
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
        (f.name for f in schema if f.name.lower() == "id" and _identifies(f) and f.name not in named), None
    )
    if id_column is not None and not _identifies(schema.field(id_column)):
        raise DataError(
            f"{settings.path}: column {id_column} is {schema.field(id_column).type}; ids are integers or text"
        )
    if settings.columns is not None:
        features = _named(schema, settings)
        if id_column in features and settings.id_column is None:
            id_column = None
    else:
        features = _found(schema, settings, id_column, notes)
    if id_column is not None and settings.id_column is None:
        notes.append(f"column {id_column} identifies rows; name another one with --id-column")
    first = schema.field(features[0])
    listed = is_list(storage_of(first))
    layout = _layout(first, settings) if listed else Layout.of((len(features),))
    return Columns(features, listed, layout, label, id_column, weight, tuple(notes))


def _identifies(field: pa.Field) -> bool:
    return extension_of(field) is None and (pa.types.is_integer(plain(field.type)) or is_text(field.type))


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
        if not lists and not is_number(field.type):
            what = "text" if is_text(field.type) else str(field.type)
            raise DataError(f"data.columns: {name} in {settings.path} is {what}; features must be numbers")
    return names


def _found(schema: pa.Schema, settings: DataSettings, id_column: str | None, notes: list[str]) -> tuple[str, ...]:
    """The features when none were named: the one list column, else every number that is no label or id."""
    taken = {settings.label_column, settings.weight_column, id_column}
    others = [field for field in schema if field.name not in taken]
    lists = [field.name for field in others if is_list(storage_of(field))]
    if len(lists) > 1:
        raise DataError(f"{settings.path}: {_listed(lists)} each hold a list per row; choose one with --columns")
    numbers = [field.name for field in others if is_number(field.type) and extension_of(field) is None]
    if lists:
        _need_known_extension(schema.field(lists[0]), settings.path)
        if numbers:
            notes.append(f"features are column {lists[0]}; left out: {_listed(numbers)} (classes: --label-column)")
        return (lists[0],)
    labels = [name for name in numbers if LOOKS_LIKE_LABEL.fullmatch(name)]
    ids = [name for name in numbers if LOOKS_LIKE_ID.fullmatch(name)]
    features = tuple(name for name in numbers if name not in labels and name not in ids)
    rest = [f"{field.name} ({field.type})" for field in others if field.name not in numbers]
    if not features:
        kinds = _listed([f"{field.name} ({field.type})" for field in schema])
        raise DataError(f"{settings.path}: no column of numbers to cluster; name some with --columns. Columns: {kinds}")
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
    if rest:
        notes.append(f"left out, not numbers: {_listed(rest)}")
    return features


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
