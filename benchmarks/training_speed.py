"""CPU-seconds of an epoch of autoencoder pretraining, DEC and IDEC beside ClustPy 0.0.3, and of 2 workers beside 1.

    python -m benchmarks.training_speed [--clustpy-python PATH] [--data FILE.npz] [--part peers|workers]

ClustPy runs in an interpreter of its own, which needs it and torch; it is left out where --clustpy-python is not given.
(It imports torchvision, without using it here: an empty package of that name with `models._api.Weights` and
`WeightsEnum` and `datasets.VisionDataset` will do.) Everybody starts from the same weights, steps by Adam as often on
batches as large, in one thread; contenders take turns, so that they share whatever else the machine does, and the
median of the repeats counts.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from rich.console import Console
from rich.table import Table

from raydc import methods
from raydc.clustering.collective import CollectiveClusters
from raydc.core.settings import build, unflatten
from raydc.data import DataSettings, DenseRows, Shard, open_source, partition, split
from raydc.networks.losses.hardening import hardening, sharpen
from raydc.training.loop import Loop

console = Console(width=140)
STAGES = ("pretraining", "dec", "idec")
K = 10

CLUSTPY = """
import json, sys, time
import numpy as np, torch
from sklearn.cluster import KMeans
from clustpy.deep._data_utils import get_dataloader
from clustpy.deep._encoding_utils import encode_batchwise
from clustpy.deep.dec import _DEC_Module
from clustpy.deep.neural_networks import FeedforwardAutoencoder

torch.set_num_threads(1)
given = np.load(sys.argv[1], allow_pickle=False)
batch, epochs, k = (int(v) for v in sys.argv[2:5])
x, device = given["x"], torch.device("cpu")
error = torch.nn.MSELoss()  # the mean over features too, as in raydc; ClustPy's own default sums over features
train = get_dataloader(x, batch, shuffle=True)
test = get_dataloader(x, batch, shuffle=False)

def network(state=None):
    layers = [x.shape[1], 500, 500, 2000, 10]
    net = FeedforwardAutoencoder(layers, activation_fn=torch.nn.ReLU, work_on_copy=False)
    linear = [m for m in net.modules() if isinstance(m, torch.nn.Linear)]
    with torch.no_grad():
        for i, layer in enumerate(linear):
            layer.weight.copy_(torch.from_numpy(given[f"weight{i}"]))
            layer.bias.copy_(torch.from_numpy(given[f"bias{i}"]))
    if state:
        net.load_state_dict(state)
    return net

def errors(net, centers=None):
    with torch.no_grad():
        rows = torch.from_numpy(x)
        z = net.encode(rows)
        found = {"reconstruction": float((net.decode(z) - rows).square().mean())}
        if centers is not None:
            q = 1 / (1 + torch.cdist(z, centers).square())
            q = q / q.sum(1, keepdim=True)
            p = q.square() / q.sum(0)
            p = p / p.sum(1, keepdim=True)
            found["hardening"] = float((p * (p / q).log()).sum(1).mean())
        return found

for line in sys.stdin:
    torch.manual_seed(int(line))
    answer = {}
    net = network()
    start = time.process_time()
    net.fit(epochs, {"lr": 1e-3}, batch, dataloader=train, ssl_loss_fn=error)
    answer["pretraining"] = {"cpu": (time.process_time() - start) / epochs, **errors(net)}
    state = {key: value.clone() for key, value in net.state_dict().items()}
    for name, weight, reconstruction in (("dec", 1.0, 0.0), ("idec", 0.1, 1.0)):
        net = network(state)
        z = encode_batchwise(test, net)
        centers = KMeans(k, n_init=20, random_state=0).fit(z).cluster_centers_.astype(np.float32)
        module = _DEC_Module(centers, 1.0)
        optimizer = torch.optim.Adam([*net.parameters(), *module.parameters()], lr=1e-4)
        start = time.process_time()
        module.fit(net, train, epochs, device, optimizer, error, weight, reconstruction)
        answer[name] = {"cpu": (time.process_time() - start) / epochs, **errors(net, module.centers)}
    print("answer " + json.dumps(answer), flush=True)
"""


class ClustPy:
    """ClustPy in its own interpreter, waiting for its turn."""

    name = "ClustPy fp32"

    def __init__(self, python: str, x: torch.Tensor, batch: int, epochs: int, scratch: str) -> None:
        path = f"{scratch}/clustpy.npz"
        net: Any = methods.load("dec")(_config("dec", 1), tuple(x.shape[1:])).net
        layers = [layer for layer in net.modules() if isinstance(layer, torch.nn.Linear)]
        arrays: dict[str, Any] = {f"weight{i}": layer.weight.detach().numpy() for i, layer in enumerate(layers)}
        arrays |= {f"bias{i}": layer.bias.detach().numpy() for i, layer in enumerate(layers)}
        np.savez(path, x=x.numpy(), **arrays)
        command = [python, "-c", CLUSTPY, path, str(batch), str(epochs), str(K)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.log = Path(scratch, "clustpy.log")
        pipe = subprocess.PIPE
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, env=environment)

    def measure(self, repeat: int) -> dict[str, dict[str, float]]:
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):  # it ended; what it said is shown below
            self.process.stdin.write(f"{repeat}\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        last = (self.log.read_text().strip() or "nothing said").splitlines()[-1]
        raise SystemExit(f"--clustpy-python: the interpreter ended ({last}); does it have ClustPy 0.0.3 and torch?")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


class Raydc:
    """raydc's own loop in this process, on one worker."""

    def __init__(self, x: torch.Tensor, batch: int, epochs: int, bf16: bool) -> None:
        self.name = f"raydc {'bf16' if bf16 else 'fp32'}"
        self.shard, self.batch, self.epochs, self.bf16 = Shard.of(x), batch, epochs, bf16

    def measure(self, repeat: int) -> dict[str, dict[str, float]]:
        answer: dict[str, dict[str, float]] = {}
        weights: dict[str, torch.Tensor] = {}
        for name in ("dec", "idec"):
            torch.manual_seed(0)
            method: Any = methods.load(name)(_config(name, self.epochs), tuple(self.shard[slice(0, 1)].shape[1:]))
            if weights:
                method.net.load_state_dict(weights)
            clusters = CollectiveClusters(self.shard, 0)
            loop = Loop(method, self.shard, clusters, self.batch, repeat, self.bf16, skip_pretraining=bool(weights))
            spent: dict[str, list[float]] = {"pretrain": [], "cluster": []}
            start = time.process_time()
            for progress in loop:
                spent[progress.phase].append(time.process_time() - start)
                if progress.phase == "pretrain" and progress.last:
                    weights = {key: value.clone() for key, value in method.net.state_dict().items()}
                    answer["pretraining"] = {"cpu": statistics.mean(spent["pretrain"]), **self._errors(method, False)}
                start = time.process_time()
            # the first epoch holds k-means, which nobody is timed for
            answer[name] = {"cpu": statistics.mean(spent["cluster"][1:]), **self._errors(method, True)}
        return answer

    def _errors(self, method: Any, clustered: bool) -> dict[str, float]:
        found = {"reconstruction": float(self.shard.map(lambda x: (method.net(x) - x).square().mean(1)).mean())}
        if clustered:
            q = self.shard.map(method.soft)
            found["hardening"] = float(hardening(sharpen(q, q.sum(0)), q).mean())
        return found

    def close(self) -> None:
        """Nothing is held."""


def _config(name: str, epochs: int) -> Any:
    """500-500-2000-10, Adam at 1e-3 and then 1e-4, uncorrupted, never stopped early."""
    settings = {
        "n_clusters": K,
        "pretrain.length": epochs,
        "pretrain.optimizer.schedule": "constant",
        "cluster.length": epochs,
        "cluster.tolerance": 0,
    }
    return build(methods.load(name).Config, unflatten(settings), at="method")


def peers(x: torch.Tensor, batch: int, epochs: int, repeats: int, python: str | None) -> None:
    """Print CPU-seconds an epoch and final losses of every contender."""
    with tempfile.TemporaryDirectory() as scratch:
        contenders: list[ClustPy | Raydc] = [Raydc(x, batch, epochs, bf16) for bf16 in (False, True)]
        if python is None:
            console.print("ClustPy is left out: give --clustpy-python the interpreter that has it")
        else:
            torch.manual_seed(0)
            contenders.insert(0, ClustPy(python, x, batch, epochs, scratch))
        found: dict[str, list[dict[str, dict[str, float]]]] = {contender.name: [] for contender in contenders}
        for repeat in range(repeats):
            for contender in contenders:
                found[contender.name].append(contender.measure(repeat))
        for contender in contenders:
            contender.close()
    steps = -(-len(x) // batch)
    title = f"CPU-seconds an epoch of {steps} steps of batch {batch}, {x.shape[1]} features, one thread"
    rows = []
    for name, runs in found.items():
        for stage in STAGES:
            median = {key: statistics.median(run[stage][key] for run in runs) for key in runs[0][stage]}
            spread = [run[stage]["cpu"] for run in runs]
            first = statistics.median(run[stage]["cpu"] for run in found[contenders[0].name])
            rows.append(
                [
                    *(stage, name, f"{median['cpu']:.3f} ({min(spread):.3f}-{max(spread):.3f})"),
                    *(f"{median['cpu'] / first:.2f}", f"{median['reconstruction']:.4f}"),
                    f"{median['hardening']:.4f}" if "hardening" in median else "-",
                ]
            )
    rows.sort(key=lambda row: STAGES.index(row[0]))
    headings = ["stage", "contender", f"CPU-s an epoch, median of {repeats} (range)", f"to {contenders[0].name}"]
    show(title, [*headings, "reconstruction at the end", "KL(P||Q) at the end"], rows)
    console.print(
        "DEC and IDEC of raydc refresh the target of all rows once an epoch, in the time shown; ClustPy has the target "
        "of each batch. Reconstruction and KL(P||Q) are of all rows, medians.",
        highlight=False,
    )


def workers(x: torch.Tensor, rows: int, epochs: int, repeats: int, bf16: bool) -> None:
    """Print rows a second of pretraining on 1 and on 2 workers of one thread, with `rows` of each batch a worker."""
    found: dict[int, list[list[float]]] = {1: [], 2: []}
    for _ in range(repeats):
        for count in found:
            with tempfile.TemporaryDirectory() as scratch, socket.create_server(("127.0.0.1", 0)) as free:
                address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
                free.close()
                multiprocessing.spawn(_worker, (count, address, x, rows, epochs, bf16, scratch), nprocs=count)
                found[count].append(json.loads(Path(scratch, "0.json").read_text()))
    wall = {count: statistics.median(seconds for seconds, _ in runs) for count, runs in found.items()}
    cpu = {count: statistics.median(seconds for _, seconds in runs) for count, runs in found.items()}
    table = []
    for count in found:
        rate = count * rows / wall[count]
        ratio = count * wall[1] / wall[count]
        table.append([str(count), f"{rate:,.0f}", f"{ratio:.2f}", f"{cpu[count] * 1000:.1f}"])
    title = f"Pretraining in {'bf16' if bf16 else 'fp32'}, one thread and {rows} rows of a batch a worker, gloo"
    show(title, ["workers", "rows a second", "ratio", "CPU-ms a step of worker 0"], table)


def _worker(rank: int, count: int, address: str, x: torch.Tensor, rows: int, epochs: int, bf16: bool, out: str) -> None:
    torch.set_num_threads(1)
    if count > 1:
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=count)
    dealt = partition(split(len(x), rows), count)
    sizes = tuple(sum(map(len, groups)) for groups in dealt)
    start = sum(sizes[:rank])
    own = DenseRows(x[start : start + sizes[rank]], x.device)
    shard = Shard(own, dealt[rank], sizes)
    torch.manual_seed(0)
    method = methods.load("ae_kmeans")(
        build(methods.load("ae_kmeans").Config, unflatten({"pretrain.length": epochs + 1})),
        tuple(x.shape[1:]),
    )
    loop = Loop(method, shard, CollectiveClusters(shard, 0), rows * count, bf16=bf16)
    times = []
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in loop:  # every epoch ends in a collective, so that workers agree when it is over
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
        wall, cpu = time.perf_counter(), time.process_time()
    steps = -(-len(x) // (rows * count))
    if rank == 0:
        answer = [statistics.median(column) / steps for column in zip(*times[1:], strict=True)]
        Path(out, "0.json").write_text(json.dumps(answer))
    if count > 1:
        dist.destroy_process_group()


def show(title: str, headings: list[str], rows: list[list[str]]) -> None:
    """A table with the machine's load, which such figures depend on."""
    loads = "/".join(f"{load:.1f}" for load in os.getloadavg())
    table = Table(*headings, title=f"{title} (load {loads} on {os.cpu_count()} cores, torch {torch.__version__})")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def open_rows(path: str | None, count: int, features: int) -> torch.Tensor:
    """x [count, D] with mean square 1: rows of a file, or seeded points around ten random centres."""
    if path is None:
        draw = torch.Generator().manual_seed(0)
        centres = torch.randn(K, features, generator=draw)
        x = centres[torch.arange(count) % K] + torch.randn(count, features, generator=draw)
    else:
        source = open_source(DataSettings(path=path))
        parts = [np.asarray(source.read(piece).x) for piece in source.pieces]
        x = torch.from_numpy(np.concatenate([part.reshape(len(part), -1) for part in parts])[:count]).float()
    return (x / x.square().mean().sqrt()).contiguous()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("benchmarks.training_speed", description=__doc__)
    parser.formatter_class = argparse.RawTextHelpFormatter
    parser.add_argument("--clustpy-python", help="interpreter of an environment with ClustPy 0.0.3")
    parser.add_argument("--part", choices=("peers", "workers", "both"), default="both")
    parser.add_argument("--data", help=".npy or .npz; by default points around ten random centres")
    parser.add_argument("--rows", type=int, default=5120)
    parser.add_argument("--features", type=int, default=784, help="of the random points")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=4, help="of each stage, at least 2")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--worker-rows", type=int, default=1024, help="rows of a batch a worker, of 1 and of 2 workers")
    parser.add_argument("--fp32", action="store_true", help="compare workers in fp32 instead of bf16")
    given = parser.parse_args(arguments)
    if given.epochs < 2:
        raise SystemExit(f"--epochs: expected at least 2, got {given.epochs}: the first one warms up")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    x = open_rows(given.data, given.rows, given.features)
    if given.part != "workers":
        peers(x, given.batch_size, given.epochs, given.repeats, given.clustpy_python)
    if given.part != "peers":
        workers(x, given.worker_rows, given.epochs, given.repeats, not given.fp32)
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
