"""One row, one answer: rows as users have them, and every place that says a row's cluster."""

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch.distributed as dist
import torch.multiprocessing as mp

from raydc import methods
from raydc.core.settings import unflatten
from raydc.core.storage import Store
from raydc.data import DataSettings, open_source
from raydc.methods import load
from raydc.pipelines.assign import assign, read
from raydc.pipelines.report.facts import draw
from raydc.testing.cases import blobs, short_settings
from raydc.testing.contract import require
from raydc.tracking.pyfunc import Clusters
from raydc.training import worker_job
from raydc.training.config import RunConfig
from raydc.training.model import ClusteringModel
from raydc.training.trainer import check, train

ROWS = 120
Rows = np.ndarray
"""[N, D] or [N, C, H, W], float64 unless a case says otherwise."""


def _with_constant(x: Rows) -> Rows:
    changed = x.copy()
    changed.reshape(len(x), -1)[:, 0] = 1e5
    return changed


def _with_outlier(x: Rows) -> Rows:
    return np.concatenate([x[:-1], 1e6 * x[:1]])


CASES: dict[str, Callable[[Rows], Rows]] = {
    "as they are": lambda x: x,
    "offset 1e2": lambda x: x + 1e2 * x.std(),
    "offset 1e4": lambda x: x + 1e4 * x.std(),
    "offset 1e6": lambda x: x + 1e6 * x.std(),
    "offset 1e4, float32": lambda x: (x + 1e4 * x.std()).astype(np.float32),
    "constant column 1e5": _with_constant,
    "scale 1e-12": lambda x: 1e-12 * x,
    "scale 1e12": lambda x: 1e12 * x,
    "one outlier 1e6": _with_outlier,
    "duplicates": lambda x: np.concatenate([x[: len(x) // 2]] * 2),
}
"""What becomes of the rows before training; offsets are in spreads."""


def rows_of(name: str) -> Rows:
    """The blobs that suit a method, in float64."""
    return blobs(load(name), ROWS)[0].double().numpy()


def as_commanded(config: RunConfig) -> None:
    """Training as the command line does it, in this process."""
    train(check(config))


def two_workers(config: RunConfig) -> None:
    """Training by two processes with gloo, rows shared out between them."""
    folder = tempfile.mkdtemp(dir=Path(config.output.out).parent)
    mp.spawn(_worker, (folder, worker_job.prepare(config)), nprocs=2)


def _worker(rank: int, folder: str, job: worker_job.Job) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    worker_job.work(job, store=Store(job.config.output.out))
    dist.destroy_process_group()


def differences(
    name: str,
    x: Rows,
    folder: Path,
    settings: dict[str, Any] | None = None,
    train: Callable[[RunConfig], None] = as_commanded,
) -> dict[str, int]:
    """Rows whose cluster is another one than training's, by the place that was asked; the folder is empty."""
    config, run = short_settings(name, folder), folder / "run"
    np.save(folder / "rows.npy", x)
    config |= {"output.out": str(run)} | (settings or {})
    train(RunConfig.of(unflatten(config)))
    labels = _in_order(pa.concat_tables(read(str(run / "assignments"))))
    allowed = [methods.full_name(name)]
    model = ClusteringModel.load(run / "model", allowed)
    places = _places(model, x, run, folder, allowed)
    return {place: int((np.asarray(found) != labels).sum()) for place, found in places}


def one_answer_everywhere(name: str) -> None:
    """Wherever a row's cluster is asked for, it is the one that training ended with; rows far from 0, some repeated."""
    if load(name).info.refuses:
        return
    with tempfile.TemporaryDirectory(prefix="raydc-") as folder:
        wrong = {place: n for place, n in differences(name, worst(rows_of(name)), Path(folder)).items() if n}
    said = ", ".join(f"{place} ({n} of {ROWS} rows)" for place, n in wrong.items())
    require(not wrong, f"a row's cluster is another one by {said}; `decide` must not depend on the rows beside a row")


def worst(x: Rows) -> Rows:
    """Far from 0, with a constant column and rows that repeat."""
    return CASES["constant column 1e5"](CASES["offset 1e6"](CASES["duplicates"](x)))


def _places(model: ClusteringModel, x: Rows, run: Path, folder: Path, allowed: list[str]) -> Iterator[tuple[str, Any]]:
    yield "predict", model.predict(x)
    yield "one at a time", np.concatenate([model.predict(row[None]) for row in x])
    yield "batches of 7", np.concatenate([model.predict(x[at : at + 7]) for at in range(0, len(x), 7)])
    order = np.random.default_rng(0).permutation(len(x))
    yield "another order", model.predict(x[order])[np.argsort(order)]
    yield "beside other rows", model.predict(np.concatenate([x[::-1]] * 3))[-len(x) :][::-1]
    if x.dtype == np.float32:
        yield "float64", model.predict(x.astype(np.float64))
    said = model.assign(x)
    yield "assign in process", said.clusters
    # a membership is never larger than the label's: where it is, the label is not its row's
    largest = said.memberships[np.arange(len(x)), said.clusters] == said.memberships.max(1)
    yield "memberships", np.where(largest, said.clusters, -1)
    served: Any = Clusters()
    served.model = model
    yield "pyfunc", served.predict(None, x)["cluster"].to_numpy()
    flat = x.reshape(len(x), -1)
    columns = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
    pq.write_table(pa.table({"x": columns}), folder / "rows.parquet", row_group_size=50)
    assign(
        str(run / "model"),
        DataSettings(path=str(folder / "rows.parquet")),
        str(folder / "assigned"),
        allow_code=allowed,
    )
    yield "assign", _in_order(pa.concat_tables(read(str(folder / "assigned"))))
    source = open_source(DataSettings(path=str(folder / "rows.npy"), **_shape(run)))
    yield "report", draw(source, Store(str(folder / "nothing")), model).labels


def _shape(run: Path) -> dict[str, Any]:
    shape = json.loads((run / "model" / "model.json").read_text())["shape"]
    return {"shape": tuple(shape)} if len(shape) == 3 else {}


def _in_order(table: pa.Table) -> np.ndarray:
    return table.sort_by("row")["cluster"].to_numpy()
