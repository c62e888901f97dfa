"""Snapshots that are either whole or not there: arrays in one .npz, a manifest with its checksum written last.

A writer claims an incarnation before it writes. A process that was stopped, replaced and woken again holds a lower one:
its next commit is refused, and what it wrote meanwhile is never read in place of its successor's.
"""

import re
import uuid
from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from raydc.core.storage import Store, sealed, unsealed

KEEP = 3
MANIFEST = re.compile(r"snapshot-\d+-\d+\.json")
ARRAYS = re.compile(r"snapshot-\d+-\d+\.npz")


class Fenced(RuntimeError):
    """Another process has taken over this run; this one must stop."""


class Snapshots:
    """The snapshots of one run in a folder (or at a URI) that every node can reach."""

    def __init__(self, folder: str | Path) -> None:
        self.store = Store(folder)
        self.incarnation, self.serial = self._claim(), 0

    def save(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        """Commit a snapshot; raises Fenced if another process has claimed this run since."""
        if self._claimed() > self.incarnation:
            raise Fenced(f"incarnation {self._claimed()} has taken over {self.store.root} from {self.incarnation}")
        self.serial += 1
        name = f"snapshot-{self.incarnation:06d}-{self.serial:09d}"
        buffer = BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        payload = buffer.getvalue()
        self.store.write_bytes(f"{name}.npz", payload)
        self.during()
        manifest = {"format": 1, "sha256": sha256(payload).hexdigest(), "bytes": len(payload), "meta": meta}
        self.store.write_bytes(f"{name}.json", sealed(manifest))
        manifests = self._manifests()
        for old in manifests[KEEP:]:
            self.store.delete(old)
            self.store.delete(old.replace(".json", ".npz"))
        if self.serial == 1:
            self._collect(manifests)

    def _collect(self, manifests: list[str]) -> None:
        """Delete arrays that earlier incarnations left without a manifest, now that there is a newer snapshot.

        Should one of them wake and write the manifest, that is damaged, but not the newest, and deleted in its turn.
        """
        mine = f"snapshot-{self.incarnation:06d}-"
        for name in self.store.list():
            if ARRAYS.fullmatch(name) and name < mine and name.replace(".npz", ".json") not in manifests:
                self.store.delete(name)

    def during(self) -> None:
        """Called between the arrays and the manifest of a snapshot; tests kill the process here."""

    def whole(self) -> Iterator[tuple[dict[str, np.ndarray], dict[str, Any]]]:
        """Every snapshot that is whole, newest first.

        Raises ValueError naming the files where snapshots exist but none is whole: never a silent fresh start.
        """
        broken, some = [], False
        for manifest in self._manifests():
            try:
                snapshot = self._read(manifest)
            except (ValueError, KeyError, OSError) as problem:
                broken.append(f"{self.store.root}/{manifest}: {problem}")
                continue
            some = True
            yield snapshot
        if broken and not some:
            raise ValueError("no snapshot of this run can be read:\n" + "\n".join(broken))

    def newest(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The first of `whole`, or None where there never was one."""
        return next(self.whole(), None)

    def _read(self, manifest: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        written = unsealed(self.store.read_bytes(manifest))
        payload = self.store.read_bytes(manifest.replace(".json", ".npz"))
        if sha256(payload).hexdigest() != written["sha256"]:
            raise ValueError(f"expected {written['bytes']} bytes with checksum {written['sha256']}, got others")
        with np.load(BytesIO(payload), allow_pickle=False) as arrays:
            return dict(arrays), written["meta"]

    def _manifests(self) -> list[str]:
        """Committed snapshots, newest first: a later incarnation beats a later moment."""
        return sorted((name for name in self.store.list() if MANIFEST.fullmatch(name)), reverse=True)

    def _claims(self) -> list[tuple[int, str]]:
        """Incarnations that were claimed, and the files that say so."""
        return [(int(name.split("-")[1]), name) for name in self.store.list() if name.startswith("incarnation-")]

    def _claimed(self) -> int:
        return max((number for number, _ in self._claims()), default=0)

    def _claim(self) -> int:
        """The next incarnation, claimed by a file of this process. Of two that claim the same, neither keeps it."""
        while True:
            number = self._claimed() + 1
            mine = f"incarnation-{number:06d}-{uuid.uuid4().hex}"
            self.store.write_bytes(mine, b"")
            if [name for claimed, name in self._claims() if claimed >= number] == [mine]:
                return number
