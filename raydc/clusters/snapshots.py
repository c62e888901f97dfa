"""Snapshots that are either whole or not there: arrays in one .npz, a manifest with its checksum written last.

A writer claims an incarnation before it writes. A process that was stopped, replaced and woken again holds a lower one:
its next commit is refused, and what it wrote meanwhile is never read in place of its successor's.
"""

import hashlib
import json
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

KEEP = 3


class Fenced(RuntimeError):
    """Another process has taken over this run; this one must stop."""


class Snapshots:
    """The snapshots of one run in a folder that every node can reach."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.incarnation, self.serial = self._claim(), 0

    def save(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        """Commit a snapshot; raises Fenced if another process has claimed this run since."""
        if self._claimed() > self.incarnation:
            raise Fenced(f"incarnation {self._claimed()} has taken over {self.folder} from {self.incarnation}")
        self.serial += 1
        name = f"snapshot-{self.incarnation:06d}-{self.serial:09d}"
        buffer = BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        payload = buffer.getvalue()
        self._write(f"{name}.npz", payload)
        self.during()
        manifest = {"format": 1, "sha256": _checksum(payload, meta), "bytes": len(payload), "meta": meta}
        self._write(f"{name}.json", json.dumps(manifest).encode())
        for old in self._manifests()[KEEP:]:
            old.unlink(missing_ok=True)
            old.with_suffix(".npz").unlink(missing_ok=True)

    def during(self) -> None:
        """Called between the arrays and the manifest of a snapshot; tests kill the process here."""

    def newest(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The newest snapshot that is whole, or None where there never was one.

        Raises ValueError naming the files where snapshots exist but none is whole: never a silent fresh start.
        """
        broken = []
        for manifest in self._manifests():
            try:
                return self._read(manifest)
            except (ValueError, KeyError, OSError) as problem:
                broken.append(f"{manifest}: {problem}")
        if broken:
            raise ValueError("no snapshot of this run can be read:\n" + "\n".join(broken))
        return None

    def _read(self, manifest: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        written = json.loads(manifest.read_bytes())
        payload = manifest.with_suffix(".npz").read_bytes()
        if _checksum(payload, written["meta"]) != written["sha256"]:
            raise ValueError(f"expected {written['bytes']} bytes with checksum {written['sha256']}, got others")
        with np.load(BytesIO(payload), allow_pickle=False) as arrays:
            return dict(arrays), written["meta"]

    def _manifests(self) -> list[Path]:
        """Committed snapshots, newest first: a later incarnation beats a later moment."""
        return sorted(self.folder.glob("snapshot-*.json"), reverse=True)

    def _write(self, name: str, payload: bytes) -> None:
        temporary = self.folder / f"tmp-{self.incarnation}-{name}"
        with temporary.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.folder / name)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _claimed(self) -> int:
        return max((int(path.name.split("-")[1]) for path in self.folder.glob("incarnation-*")), default=0)

    def _claim(self) -> int:
        while True:
            number = self._claimed() + 1
            try:
                os.close(os.open(self.folder / f"incarnation-{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                return number
            except FileExistsError:
                continue  # another process claimed it just now: claim the next


def _checksum(payload: bytes, meta: dict[str, Any]) -> str:
    return hashlib.sha256(payload + json.dumps(meta).encode()).hexdigest()
