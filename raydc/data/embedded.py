"""Parquet files of vectors that say by what they were encoded, so that a model of them takes the raw rows again."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from safetensors import SafetensorError

from raydc.data.encoding import Encoding
from raydc.data.source import DataError

VECTORS = "embedding"
"""The column of vectors."""
EXCERPT, THUMBNAIL = "excerpt", "thumbnail"
"""Columns of what people see of a row: the begin of a text, a small picture (JPEG)."""
KEY = b"raydc.embedded"
"""Of the schema's metadata."""


@dataclass(frozen=True)
class Embedded:
    """How rows were encoded, and what identifies them."""

    encoding: Encoding
    id_column: str

    def metadata(self) -> dict[bytes, bytes]:
        """For the schema of a file."""
        files = {name: base64.b64encode(data).decode() for name, data in self.encoding.files().items()}
        return {KEY: json.dumps({"id_column": self.id_column, "encoding": files}).encode()}

    @staticmethod
    def of(metadata: Mapping[bytes, bytes]) -> "Embedded":
        about = json.loads(metadata[KEY])
        files = {name: base64.b64decode(data) for name, data in about["encoding"].items()}
        return Embedded(Encoding.of(files), about["id_column"])


def embedded(schemas: Sequence[pa.Schema], path: str) -> Embedded | None:
    """What files of these schemas, below a path, say of their vectors; None where they say nothing.

    DataError where they differ, or it cannot be read.
    """
    said = {(schema.metadata or {}).get(KEY) for schema in schemas}
    if said == {None}:
        return None
    try:
        found = {Embedded.of({KEY: each}) for each in said if each is not None}
    except (ValueError, KeyError, TypeError, SafetensorError) as damage:
        raise DataError(f"{path}: what its files say of their vectors is damaged ({damage}); embed anew") from damage
    if len(found) > 1 or None in said:
        raise DataError(f"{path}: holds files that were embedded by different encoders, or not at all; part them")
    return found.pop()
