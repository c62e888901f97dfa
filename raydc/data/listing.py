"""The files of rows in a folder: each once, none of a table whose log says which count, and what folders' names say."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from raydc.core.nouns import counted
from raydc.data.formats import FORMATS, conversion, format_of, suffix_of
from raydc.data.source import DataError

LOGS = {
    "_delta_log": ("a Delta table", 'deltalake.DeltaTable(PATH).to_pandas().to_parquet("rows.parquet", index=False)'),
    ".hoodie": ("a Hudi table", 'spark.read.format("hudi").load(PATH).write.parquet("rows")'),
    "_spark_metadata": ("the output of a Spark stream", 'spark.read.parquet(PATH).write.parquet("rows")'),
}
"""Folders that say which files of a table count, and what writes those rows as plain Parquet."""
ICEBERG = ("an Iceberg table", 'table.scan().to_pandas().to_parquet("rows.parquet", index=False) of pyiceberg')
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""The name of a partition whose value is null, as Hive writes it."""


@dataclass(frozen=True)
class Listing:
    """Files in the order in which they are read."""

    files: tuple[pafs.FileInfo, ...]
    partitions: tuple[dict[str, str | None], ...]
    """Of each file the values that its folders' names (key=value) give."""
    format: str = "Parquet"
    """Of all files, as FORMATS calls it."""
    notes: tuple[str, ...] = ()


def listed(filesystem: pafs.FileSystem, info: pafs.FileInfo) -> Listing:
    """A file, or those below a folder that are of one format: Parquet where there is any. Files and folders whose names
    begin with . or _ are left out.

    Raises DataError where there are none, or of several formats none of which is Parquet, or a table's log says which
    of them count; OSError of the file system.
    """
    if info.type == pafs.FileType.File:
        return Listing((info,), ({},), format_of(info.path) or "Parquet")
    root, local = info.path.rstrip("/"), isinstance(filesystem, pafs.LocalFileSystem)
    if local:
        paths, again = _walked(root)
    else:
        found = filesystem.get_file_info(pafs.FileSelector(info.path, recursive=True))
        paths, again = [each.path for each in found if each.type == pafs.FileType.File], []
    _refuse_log(filesystem, root, [path[len(root) + 1 :] for path in paths])
    shown = sorted(path for path in paths if not any(map(_hidden, path[len(root) + 1 :].split("/"))))
    kinds = [format_of(path) for path in shown]
    readable = [kind for kind in FORMATS if kind in kinds]
    if not readable:
        seen = (
            f"{counted(len(shown), 'other file')}, such as {shown[0]}; {conversion(_usual(shown))}"
            if shown
            else "nothing"
        )
        raise DataError(f"{info.path}: no files of rows ({', '.join(FORMATS)}) in it, but {seen}")
    if len(readable) > 1 and readable[0] != "Parquet":
        raise DataError(f"{info.path}: holds files of {' and '.join(readable)}; put rows of one format into a folder")
    rows = [path for path, kind in zip(shown, kinds, strict=True) if kind == readable[0]]
    others = [path for path, kind in zip(shown, kinds, strict=True) if kind != readable[0]]
    notes = []
    if again := [path for path in again if not any(map(_hidden, path[len(root) + 1 :].split("/")))]:
        notes.append(f"read once: {again[0]} leads to what is read already ({counted(len(again), 'path')} in all)")
    if others:
        left = f"{counted(len(others), 'file')}, such as {others[0]}"
        notes.append(f"left out, as {_readable(readable[0])} alone are read here: {left}")
    partitions = tuple(_partition(path[len(root) + 1 :]) for path in rows)
    return Listing(tuple(filesystem.get_file_info(rows)), partitions, readable[0], tuple(notes))


def _readable(kind: str) -> str:
    """A format as a note names it; images have several."""
    return f"{kind} ({', '.join(FORMATS[kind])})" if kind == "images" else f"{kind} files"


def partition_fields(partitions: Sequence[dict[str, str | None]]) -> list[pa.Field]:
    """The columns that folders' names give: integers, numbers or text, by what all values of one can be."""
    names = dict.fromkeys(name for partition in partitions for name in partition)
    found = []
    for name in names:
        values = [value for partition in partitions if (value := partition.get(name)) is not None]
        kind = pa.string()
        if values and all(re.fullmatch(r"[+-]?\d{1,18}", value) for value in values):
            kind = pa.int64()
        elif values and all(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value) for value in values):
            kind = pa.float64()
        found.append(pa.field(name, kind))
    return found


def partition_value(text: str | None, kind: pa.DataType) -> pa.Scalar:
    """One of those values."""
    return pa.scalar(text, pa.string()).cast(kind)


def _hidden(name: str) -> bool:
    """As Spark and pyarrow have it, for which a partition by a column _x is none the less data."""
    return name[:1] in ("_", ".") and "=" not in name


def _walked(root: str) -> tuple[list[str], list[str]]:
    """Paths below a local folder, through links, each file and folder once, hidden folders as they are; and the paths
    that lead to one again.

    What no link leads to comes first. Raises DataError for a file of rows whose link leads nowhere.
    """
    paths: list[str] = []
    again: list[str] = []
    seen: set[tuple[int, int]] = set()
    plain, links = [root], list[str]()
    while plain or links:
        path = (plain or links).pop()
        if path != root and _hidden(os.path.basename(path)):
            paths.append(path)
            continue
        try:
            about = os.stat(path)
        except FileNotFoundError as error:
            if format_of(path):
                raise DataError(f"{path}: is a link to {os.path.realpath(path)}, where nothing is") from error
            continue
        if (place := (about.st_dev, about.st_ino)) in seen:
            again.append(path)
            continue
        seen.add(place)
        if not os.path.isdir(path):
            paths.append(path)
            continue
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name, reverse=True):
            (links if entry.is_symlink() else plain).append(entry.path)
    return paths, again


def _refuse_log(filesystem: pafs.FileSystem, root: str, names: Iterable[str]) -> None:
    """DataError where a folder, or the one that it lies in, is a table whose log says which of its files count."""
    parent, own = os.path.split(root)
    beside = [f"{parent}/{log}" for log in LOGS] if parent else []
    for found in filesystem.get_file_info(beside):
        if found.type == pafs.FileType.Directory:
            _refuse(parent, *LOGS[found.base_name], found.base_name)
    if own == "data" and parent:
        selector = pafs.FileSelector(f"{parent}/metadata", allow_not_found=True)
        if any(found.base_name.endswith(".metadata.json") for found in filesystem.get_file_info(selector)):
            _refuse(parent, *ICEBERG, "metadata")
    for name in names:
        parts = PurePosixPath(name).parts
        for at, part in enumerate(parts):
            if part in LOGS:
                _refuse("/".join([root, *parts[:at]]), *LOGS[part], part)
        if parts[-2:-1] == ("metadata",) and parts[-1].endswith(".metadata.json"):
            _refuse("/".join([root, *parts[:-2]]), *ICEBERG, "metadata")


def _refuse(path: str, kind: str, how: str, log: str) -> None:
    raise DataError(
        f"{path}: is {kind}, whose log ({log}) says which of its files count, and raydc does not read logs; write the "
        f"rows that count as plain Parquet and name those: {how.replace('PATH', repr(path))}; or name one of its files"
    )


def _usual(paths: Sequence[str]) -> str:
    """A path with the suffix that most have."""
    (most, _), *_ = Counter(map(suffix_of, paths)).most_common(1)
    return next(path for path in paths if suffix_of(path) == most)


def _partition(name: str) -> dict[str, str | None]:
    """The values that the folders of a file below the root are named after, decoded as Hive encodes them."""
    pairs = [folder.split("=", 1) for folder in name.split("/")[:-1] if "=" in folder]
    return {unquote(key): None if value == NO_VALUE else unquote(value) for key, value in pairs}
