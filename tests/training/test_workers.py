"""Several workers of one job, as processes without Ray: they decide alike, whatever each of them finds."""

import datetime
import functools
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from raydc.core.storage import Store
from raydc.distributed import collectives
from raydc.training import worker_job
from tests.support.runs import config, weights
from tests.training.test_trainer import flip

PATIENCE = datetime.timedelta(seconds=20)


def worker(rank: int, folder: str, workers: int, task: functools.partial) -> None:
    torch.set_num_threads(1)
    place = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=workers, timeout=PATIENCE)
    task()
    dist.destroy_process_group()


def together(folder: Path, workers: int, function, *arguments) -> None:
    """function(*arguments) in every worker at the same time; forked, so that none imports torch again."""
    folder.mkdir()
    task = functools.partial(function, *arguments)
    mp.start_processes(worker, (str(folder), workers, task), nprocs=workers, start_method="fork")


def train(out: Path, epochs: int | None = None) -> None:
    """The tiny run, or as many epochs more of it."""
    seen = iter(range(1, 1000))
    worker_job.work(worker_job.prepare(config(out)), store=Store(out), on_epoch=lambda progress: next(seen) == epochs)


def test_all_go_on_from_a_checkpoint_that_is_whole_for_every_worker(tmp_path):
    together(tmp_path / "a", 2, train, tmp_path / "whole")
    together(tmp_path / "b", 2, train, tmp_path / "run", 6)
    store = Store(tmp_path / "run")
    newest = [name for name in store.list("checkpoints") if "/rows-" in name][-1]
    flip(store, newest)  # rank 1's alone
    store.write_text("checkpoints/0000000001-000/rows-000000000000-000000000004.pt", "of a death before the manifest")
    together(tmp_path / "c", 2, train, tmp_path / "run")
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    parts = [pq.read_table(tmp_path / run / "assignments")["cluster"].to_numpy() for run in ("run", "whole")]
    assert (parts[0] == parts[1]).all()
    assert not store.exists("checkpoints/0000000001-000")


def late(out: Path) -> None:
    time.sleep(1.5 * (collectives.rank() == 3))
    found = worker_job._precision("auto", torch.device("cpu"), Store(out))
    assert found == Store(out).read_text("precision.txt")


def test_workers_that_come_late_to_the_precision_hold_up_nobody(tmp_path):
    together(tmp_path / "a", 4, late, tmp_path / "run")


@pytest.mark.parametrize("workers", [1, 2])
def test_assignments_of_a_death_with_other_workers_are_written_anew(tmp_path, workers):
    together(tmp_path / "a", 2, train, tmp_path / "run", 2)
    store = Store(tmp_path / "run")
    for start in (0, 500, 904):
        store.write_text(f"assignments/part-{start:012d}.parquet", "of three workers")
    together(tmp_path / "b", workers, train, tmp_path / "run")
    assert pq.read_table(tmp_path / "run" / "assignments")["row"].to_pylist() == list(range(1797))
