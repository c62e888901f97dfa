"""Types of columns: which are numbers, lists, text or ids, and what two files' types of one column are together."""

from collections.abc import Container, Iterable, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

TENSORS = {"arrow.fixed_shape_tensor", "ray.data.arrow_tensor", "ray.data.arrow_tensor_v2"}
"""Extension types that are read, by their storage alone; any other could carry code in its metadata."""
UUID = "arrow.uuid"
Stored = Literal["truth", "integer", "number", "text", "date", "picture"]
"""How values are held before they are encoded as numbers."""


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
    return _listed(kind) and is_number(kind.value_type)


def _listed(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


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


def is_binary(kind: pa.DataType) -> bool:
    """Whether values are bytes."""
    kind = plain(kind)
    own = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return own or pa.types.is_fixed_size_binary(kind)


def identifies(field: pa.Field) -> bool:
    """Whether a column of this type can hold ids: integers, text, uuids, bytes, decimals, times."""
    if (extension := extension_of(field)) is not None:
        return extension == UUID
    kind = plain(field.type)
    exact = pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    timed = pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind)
    return exact or timed or is_text(kind) or is_binary(kind)


def stored_as(kind: pa.DataType) -> Stored | None:
    """How values of this type are held before they are encoded; None where they are nothing that is."""
    kind = plain(kind)
    if pa.types.is_boolean(kind):
        return "truth"
    if pa.types.is_integer(kind):
        return "integer"
    if is_number(kind):
        return "number"
    if is_text(kind):
        return "text"
    if is_binary(kind):
        return "picture"
    return "date" if pa.types.is_date(kind) or pa.types.is_timestamp(kind) else None


def is_wide_integer(field: pa.Field) -> bool:
    """Whether a column holds integers of 16 bits or more, and so may hold another one in each row."""
    return extension_of(field) is None and pa.types.is_integer(field.type) and field.type.bit_width >= 16


def unified(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """One schema of all files': every column that any has, wide enough for all. Of a column whose types do not go
    together the first stands, and `differences` names the files of others.
    """
    fields: dict[str, pa.Field] = {}
    for schema in schemas:
        for field in schema:
            known = fields.get(field.name)
            fields[field.name] = field if known is None else (_together(known, field) or known)
    return pa.schema([*fields.values()])


def differences(schema: pa.Schema, first: pa.Schema, used: Container[str | None]) -> list[str]:
    """What of the columns `used` is not as in the first schema, in words; nothing where the types go together."""
    expected, seen = ({field.name: field for field in each if field.name in used} for each in (first, schema))
    parts = [f"no {name}" for name in expected if name not in seen]
    parts += [f"{name} besides" for name in seen if name not in expected]
    both = [name for name in expected if name in seen and _together(expected[name], seen[name]) is None]
    return parts + [f"{name} is {plain(seen[name].type)}, not {plain(expected[name].type)}" for name in both]


def _together(one: pa.Field, other: pa.Field) -> pa.Field | None:
    """A column that holds the values of both; None where there is none."""
    extensions = [extension_of(one), extension_of(other)]
    if extensions == [None, None]:
        kind = common(one.type, other.type)
        return None if kind is None else pa.field(one.name, kind)
    if extensions[0] == extensions[1]:
        return one if one.type == other.type else None
    if pa.types.is_null(one.type) or pa.types.is_null(other.type):
        return other if pa.types.is_null(one.type) else one
    known, bare = (one, other) if extensions[0] is not None else (other, one)
    if {*extensions} - {None, *TENSORS} or None not in extensions:
        return None
    return known if is_list(storage_of(known)) and is_list(storage_of(bare)) else None


def common(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The narrowest type that holds the values of both; None where there is none."""
    one, other = plain(one), plain(other)
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if _listed(one) and _listed(other):
        return _common_list(one, other)
    if is_number(one) and is_number(other):
        return _common_number(one, other)
    if is_text(one) and is_text(other):
        return pa.string()
    if is_binary(one) and is_binary(other):
        return pa.binary()
    if pa.types.is_timestamp(one) and pa.types.is_timestamp(other) and (one.tz is None) == (other.tz is None):
        return max(one, other, key=lambda kind: ("s", "ms", "us", "ns").index(kind.unit))
    if pa.types.is_date(one) and pa.types.is_date(other):
        return pa.date32()
    return None


def _common_list(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    sizes = {kind.list_size for kind in (one, other) if pa.types.is_fixed_size_list(kind)}
    value = common(one.value_type, other.value_type)
    if value is None or len(sizes) > 1:
        return None
    return pa.list_(value, *sizes)


def _common_number(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    kinds = (one, other)
    if all(map(pa.types.is_decimal, kinds)):
        scale = max(kind.scale for kind in kinds)
        whole = max(kind.precision - kind.scale for kind in kinds)
        return pa.decimal256(min(76, whole + scale), scale)
    if any(map(pa.types.is_decimal, kinds)):
        return pa.float64()
    if all(map(pa.types.is_integer, kinds)) and numpy_type(kinds).kind == "f":
        return pa.decimal128(20, 0)  # no integer of 64 bits holds both signs of one and all of the other
    return pa.from_numpy_dtype(numpy_type(kinds)) if one != pa.bool_() or other != pa.bool_() else one


def numpy_type(kinds: Sequence[pa.DataType]) -> np.dtype:
    """What numbers of these types are together in numpy; truth values are 0 and 1, decimals float64."""

    def own(kind: pa.DataType) -> np.dtype:
        if pa.types.is_boolean(kind):
            return np.dtype(np.uint8)
        if pa.types.is_decimal(kind) or pa.types.is_null(kind):
            return np.dtype(np.float64)
        return np.dtype(kind.to_pandas_dtype())

    return np.result_type(*{own(kind) for kind in kinds})
