"""The output directory of a run, on a local disk or any file system that pyarrow opens."""

import errno
import fcntl
import hashlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from raydc.core.errors import Occupied
from raydc.core.settings import SettingsError

OWN = ".raydc"
"""Folder of an output directory for what is no result: raydc's own notes to itself."""
LOCK = f"{OWN}/lock"
VECTORS = "embedded"
"""Folder of an output directory for the vectors of its rows, where they are encoded first."""
LONGEST_NAME = 200
"""Bytes of a name at most; what a file is called while it is written is longer by some 40."""


class Store:
    """Whole files under one root. A file appears complete or not at all."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """A directory of this machine becomes absolute: workers, who open it too, have other working directories.

        Raises ValueError for a URI of no known kind.
        """
        self.root = str(root)
        if "://" in self.root:
            try:
                self.filesystem, self.path = pafs.FileSystem.from_uri(self.root)
            except pa.ArrowInvalid as error:
                raise ValueError(
                    f"{self.root}: expected a directory of this machine or a URI such as s3://bucket/folder ({error})"
                ) from error
        else:
            self.filesystem = pafs.LocalFileSystem()
            self.root = self.path = str(Path(self.root).expanduser().absolute())
        self.local = isinstance(self.filesystem, pafs.LocalFileSystem)

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        return Store, (self.root,)

    def read_bytes(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        with self.filesystem.open_input_stream(self._at(name)) as file:
            return file.read()

    def write_bytes(self, name: str, data: bytes | memoryview) -> None:
        """Atomic and durable: a local file is written beside its place, synced, and renamed; an object is put whole."""
        target = self._at(name)
        self.filesystem.create_dir(target.rsplit("/", 1)[0], recursive=True)
        if not self.local:
            with self.filesystem.open_output_stream(target) as file:
                file.write(data)
            return
        beside = f"{target}.{uuid.uuid4().hex}.tmp"
        try:
            with open(beside, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, target)
        finally:
            Path(beside).unlink(missing_ok=True)
        folder = os.open(os.path.dirname(target), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def read_text(self, name: str) -> str:
        return self.read_bytes(name).decode()

    def write_text(self, name: str, text: str) -> None:
        self.write_bytes(name, text.encode())

    def directory(self) -> "Store":
        """This store, if its root is a directory or can become one; NotADirectoryError if it is a file, or in one."""
        at = self.path.rstrip("/")
        while at:
            kind = self.filesystem.get_file_info(at).type
            if kind == pafs.FileType.File:
                raise NotADirectoryError(errno.ENOTDIR, f"{at} is a file, where a directory is expected; name another")
            if kind == pafs.FileType.Directory or not self.local:
                break
            at = at.rpartition("/")[0]
        return self

    def exists(self, name: str) -> bool:
        return self.filesystem.get_file_info(self._at(name)).type != pafs.FileType.NotFound

    def list(self, prefix: str = "") -> list[str]:
        """Names of the files below a folder, sorted, relative to the root; unfinished ones are left out."""
        folder = self._at(prefix) if prefix else self.path
        if self.filesystem.get_file_info(folder).type != pafs.FileType.Directory:
            return []
        infos = self.filesystem.get_file_info(pafs.FileSelector(folder, recursive=True))
        names = [info.path.removeprefix(self.path.rstrip("/") + "/") for info in infos if info.is_file]
        return sorted(name for name in names if not name.endswith(".tmp"))

    def only(self, *known: str) -> "Store":
        """This store, if it holds no files but its lock and those known, each by its name or by its folder, as `name/`.

        Raises SettingsError, which names one of the others.
        """
        folders, own = tuple(name for name in known if name.endswith("/")), (LOCK, *known)
        others = [name for name in self.list() if name not in own and not name.startswith(folders)]
        if others:
            raise SettingsError(
                f"out: {self.root} holds other files ({others[0]}); name a new or empty directory with --out"
            )
        return self

    def delete(self, prefix: str) -> None:
        """Remove a file, or a folder and all in it, if it is there."""
        kind = self.filesystem.get_file_info(self._at(prefix)).type
        if kind == pafs.FileType.Directory:
            self.filesystem.delete_dir(self._at(prefix))
        elif kind == pafs.FileType.File:
            self.filesystem.delete_file(self._at(prefix))

    def __truediv__(self, name: str) -> "Store":
        place, *options = self.root.split("?", 1) if "://" in self.root else [self.root]
        return Store("?".join((f"{place.rstrip('/')}/{name}", *options)))

    def _at(self, name: str) -> str:
        """Where a name lies; ValueError if that is not inside the root, also by way of a link."""
        at = f"{self.path.rstrip('/')}/{name}"
        parts = name.split("/")
        good = all(part not in ("", ".", "..") and len(part.encode()) <= LONGEST_NAME for part in parts)
        if good and "\0" not in name:
            root = os.path.realpath(self.path)
            if not self.local or os.path.realpath(at).startswith(root.rstrip("/") + "/"):
                return at
        raise ValueError(f"expected a name inside {self.root}, got {name[:80]!r}")


def sealed(value: dict[str, Any]) -> bytes:
    """JSON with its own checksum."""
    digest = hashlib.sha256(json.dumps(value).encode()).hexdigest()
    return json.dumps(value | {"seal": digest}).encode()


def unsealed(data: bytes) -> dict[str, Any]:
    """What was `sealed`. Raises ValueError if a single bit of it is another."""
    value = json.loads(data)
    said = {key: value[key] for key in value if key != "seal"} if isinstance(value, dict) else {}
    if sealed(said) != data:
        raise ValueError("it does not have the checksum that it states")
    return said


@contextmanager
def alone(store: Store) -> Iterator[None]:
    """Only one driver at a time works in a local directory; a killed one's lock goes with it.

    Raises Occupied. A remote directory cannot be locked: two drivers there are for the user to avoid.
    """
    if not store.local:
        yield
        return
    path = Path(store.path) / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Occupied(f"{store.root} is in use by {file.read()}; wait for it, or name another --out") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
        yield
