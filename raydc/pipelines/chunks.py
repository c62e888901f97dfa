"""Rows in chunks that become one file each: cut by the data alone, and made by whichever Ray actor is free.

So it does not matter which worker did what, or where an earlier run was killed: a repeated one makes what is missing.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raydc.core.errors import WorkersLost
from raydc.core.registries import Registered, registered
from raydc.core.storage import Store
from raydc.data.source import Piece
from raydc.distributed import ray_cluster
from raydc.distributed.watchdog import HANG_AFTER, watch


@dataclass(frozen=True)
class Chunk:
    """Rows that become one output file."""

    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int:
        return sum(piece.rows for piece in self.pieces)

    @property
    def name(self) -> str:
        return f"part-{self.pieces[0].start:012d}.parquet"


def cut(pieces: Sequence[Piece], chunk_rows: int) -> list[Chunk]:
    """Consecutive pieces together, up to `chunk_rows` rows, at least one piece each."""
    chunks: list[Chunk] = []
    held: list[Piece] = []
    for piece in pieces:
        if held and sum(p.rows for p in held) + piece.rows > chunk_rows:
            chunks.append(Chunk(tuple(held)))
            held = []
        held.append(piece)
    return [*chunks, Chunk(tuple(held))] if held else chunks


def said(store: Store, chunk: Chunk) -> dict[str, Any] | None:
    """What the chunk's file says of itself in its footer, if it is there with all rows but those that were dropped."""
    if not store.exists(chunk.name):
        return None
    try:
        with store.filesystem.open_input_file(f"{store.path.rstrip('/')}/{chunk.name}") as file:
            metadata = pq.read_metadata(file)
    except pa.ArrowInvalid:
        return None  # damaged since it was written: it will be made again
    about: dict[str, Any] = json.loads((metadata.metadata or {}).get(b"raydc", b"{}"))
    return about if metadata.num_rows + len(about.get("dropped", ())) == chunk.rows else None


class _Actor:
    """A Ray actor that makes chunks by a maker of its own."""

    def __init__(self, added: tuple[Registered, ...], maker: Callable[..., Any], hang_after: float) -> None:
        """What the driver's process registered has been `added` here when it arrives."""
        watch(hang_after)
        torch.set_num_threads(1)
        self._maker = maker
        self._made: Callable[[Chunk], None] | None = None

    def make(self, arguments: Any, chunk: Chunk) -> None:
        """The first call keeps what `arguments` make, a restarted actor's too."""
        if self._made is None:
            self._made = self._maker(*arguments)
        self._made(chunk)


def on_ray(
    maker: Callable[..., Callable[[Chunk], None]],
    arguments: tuple[Any, ...],
    chunks: Sequence[Chunk],
    workers: int,
    poll: Callable[[], None],
) -> None:
    """Every chunk made by some actor, each of which has a `maker(*arguments)`; with a GPU where each can have one.

    Actors that are lost or hang are replaced, and what they had in hand is done again. `poll` is called before and
    between chunks. Raises what a maker raises, and WorkersLost.
    """
    with ray_cluster.connected(workers):
        import ray
        from ray.exceptions import RayActorError, RayTaskError
        from ray.util import ActorPool

        gpus = 1 if ray.cluster_resources().get("GPU", 0) >= workers else 0
        kind = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=3, max_task_retries=3)(_Actor)
        held = ray.put(arguments)
        actors = [kind.remote(registered(), maker, HANG_AFTER) for _ in range(min(workers, len(chunks)))]
        try:
            poll()
            for _ in ActorPool(actors).map_unordered(lambda actor, chunk: actor.make.remote(held, chunk), chunks):
                poll()
        except RayTaskError as problem:
            raise problem.cause from None
        except RayActorError as problem:
            kept = "files that are complete are kept, and the same command makes the others"
            raise WorkersLost(f"workers were lost more often than they are replaced; {kept}: {problem}") from problem
        finally:
            for actor in actors:
                ray.kill(actor)
