"""The profile before any work: by the cluster where there is much to read, and once for an output directory.

A run that goes on, or is asked for again when it has finished, takes the profile that its directory holds; workers
compare every row group with the profile's checksum when they load it, so rows that changed meanwhile are noticed there.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from raydc.core.storage import Store
from raydc.data import DataProfile, DataSettings, Seen, Source, look, opened, profile_rows, recalled, written
from raydc.data.source import Piece
from raydc.distributed import ray_cluster

NAME = "profile.npz"
MUCH = 2**32
"""Bytes of rows from which on the cluster reads them."""
PART = 2**29
"""Bytes that a worker reads in one go, about."""
LOSSES = 3
"""Workers that may be lost over the same rows."""


@dataclass(frozen=True)
class Profiler:
    """Who surveys the rows of an output directory."""

    store: Store
    on_ray: bool = False
    """Whether workers of Ray may be asked."""
    note: Callable[[str], None] = lambda text: None
    poll: Callable[[], None] = lambda: None
    """Called now and then while rows are read; ends it by what it raises."""

    def __call__(self, source: Source, settings: DataSettings) -> DataProfile:
        """Raises DataError as `profile` does, and ConnectionError where workers are lost again and again."""
        if (kept := self._kept(source, settings)) is not None:
            return kept
        parts = parts_of(source)
        if not self.on_ray or size_of(source) < MUCH or len(parts) == 1:
            return profile_rows(source, settings, self._looks(source))
        self.note(f"{size_of(source) / 1e9:.0f} GB of rows are read and checked once, in {len(parts)} parts")
        with ray_cluster.connected(1):
            return profile_rows(source, settings, self._seen(source, parts))

    def _seen(self, source: Source, parts: Sequence[list[Piece]]) -> Iterator[Seen]:
        """By tasks of one CPU each. What a part holds is joined and forgotten when its turn comes."""
        from ray.exceptions import RayError

        from raydc.clustering.centroid_service import actors as over_ray

        look_at = over_ray.stream(_look_at, (source.settings, source.fingerprint), max_failures=LOSSES, poll=self.poll)
        try:
            yield from chain.from_iterable(look_at(parts))
        except RayError as problem:
            raise ConnectionError(
                f"the rows could not be read by workers: {problem}\nThe same command tries again"
            ) from problem

    def keep(self, found: DataProfile) -> None:
        """Put it into the directory, which is this run's."""
        data = written(found)
        if not self.store.exists(NAME) or self.store.read_bytes(NAME) != data:
            self.store.write_bytes(NAME, data)

    def _kept(self, source: Source, settings: DataSettings) -> DataProfile | None:
        if not self.store.exists(NAME):
            return None
        found = recalled(self.store.read_bytes(NAME), source)
        if found is None or (len(found.dropped_rows) and settings.on_bad_row != "drop"):
            return None
        return found

    def _looks(self, source: Source) -> Iterator[Seen]:
        """By this process."""
        for piece in source.pieces:
            self.poll()
            yield look(source, piece)


def size_of(source: Source) -> int:
    """Of all rows, uncompressed; what sparse rows would take if they were dense."""
    return source.n_rows * source.n_features * source.dtype.itemsize


def parts_of(source: Source) -> list[list[Piece]]:
    """Consecutive pieces to be read by one worker. A row group of Parquet, decoded from its begin, is not cut."""
    parts: list[list[Piece]] = []
    size = source.n_features * source.dtype.itemsize
    for piece in source.pieces:
        begins = piece.offset == 0 or source.kind != "table"
        if not parts or (begins and size * sum(each.rows for each in parts[-1]) >= PART):
            parts.append([])
        parts[-1].append(piece)
    return parts


def _look_at(data: tuple[DataSettings, str], pieces: Sequence[Piece]) -> list[Seen]:
    source = opened(*data)
    return [look(source, piece) for piece in pieces]
