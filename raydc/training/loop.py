"""The training loop, written once. It never asks which method it trains, and knows nothing of Ray.

Every random draw of a step comes from a seed made of (run seed, worker, step), so that a run resumed at any epoch needs
no state of random generators and ends with the same bits as the undisturbed one.
"""

import hashlib
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from raydc.clustering import Clusters
from raydc.clustering.metrics.monitors import regrouped_share
from raydc.core.fault_injection import failpoint
from raydc.core.schedule import Clustering, Optimizer, Phase, steps
from raydc.data import Shard
from raydc.distributed import collectives
from raydc.methods.base import Group, Method, Player, StepState

SETTLING = 140
"""Steps between two updates whose labels the stop rule compares, at least."""


class TrainingDiverged(RuntimeError):
    """A loss is no finite number any more."""


@dataclass(frozen=True)
class Progress:
    """What an epoch came to; the same on every worker."""

    phase: str
    epoch: int
    """Epochs of this phase that are over."""
    epochs: int
    """Epochs this phase lasts at most."""
    step: int
    """Steps of the whole run that are over."""
    losses: dict[str, float]
    """Mean over the epoch of each part, before its weight, by name (of a player, if there are several)."""
    changed: float | None
    """Share of all rows that changed cluster at the last update."""
    alive: int | None
    """Clusters with rows at the last update."""
    largest: float | None
    """Share of all rows in the largest cluster at the last update."""
    last: bool
    """Whether the phase ends here."""


def seed_of(*parts: object) -> int:
    """A 63-bit seed that depends on every part, on every machine alike."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def _reseed(seed: int, device: torch.device) -> None:
    """torch.manual_seed for the one device that a step draws from.

    The original keeps a traceback for a CUDA that may come later: half a millisecond, which is a small network's step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def flushing_denormals() -> Iterator[None]:
    """Floats below the smallest normal one are zero in this thread.

    The moments that Adam keeps of units without gradients decay into that range, where a CPU is many times slower:
    after sixty epochs of DEC's autoencoder on MNIST the optimizer took 40 of a step's 92 ms, and 3 without them.
    """
    was = sys.float_info.min / 2 == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was)


@dataclass
class Loop:
    """Trains `method` on this worker's shard. Its state can be saved between two epochs."""

    method: Method
    shard: Shard
    clusters: Clusters
    batch_size: int
    """Rows of the global batch."""
    seed: int = 0
    bf16: bool = False
    """Autocast to bf16 in forward and backward passes; parameters, targets, k-means and final labels stay in fp32."""
    skip_pretraining: bool = False
    """Leave out the phases before clustering begins: the network was trained already."""
    step: int = 0
    begun: bool = False
    phase_index: int = 0
    phase_step: int = 0
    compared: int = 0
    """Step whose labels the stop rule compares with."""
    optimizers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)
    _clustered: tuple[float | None, int | None, float | None] = (None, None, None)

    def __post_init__(self) -> None:
        self.phases = {name: phase for name, phase in self.method.phases().items() if not phase.left_out}
        self.method.prepare(self.shard, self.clusters)
        if self.skip_pretraining:
            while self.phase_index < len(self.phases) and not isinstance(self._phase()[1], Clustering):
                self.phase_index += 1
        if self.phase_index < len(self.phases):
            self.optimizers = self._new_optimizers()

    def __iter__(self) -> Iterator[Progress]:
        """Train from where the state stands, one epoch at a time; afterwards call `finish`."""
        while self.phase_index < len(self.phases):
            yield self._epoch()

    def finish(self) -> Tensor:
        """Final labels, int64 [N], of this worker's rows (section 2.7)."""
        with self._evaluating():  # in fp32, as the saved model assigns
            torch.manual_seed(seed_of(self.seed, "finish"))
            labels = self.method.finalize_clusters(self.shard, self.clusters)
        self.method.rows["label"] = labels
        self._judge(labels)
        return labels

    def plan(self) -> dict[str, int]:
        """Steps of every phase at most."""
        batches = self.method.batches
        return {
            name: steps(phase.length, batches(self.shard, self.batch_size, name)) for name, phase in self.phases.items()
        }

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch of this phase."""
        return self.method.batches(self.shard, self.batch_size, self._phase()[0])

    def _phase(self) -> tuple[str, Phase]:
        name = [*self.phases][self.phase_index]
        return name, self.phases[name]

    def _epoch(self) -> Progress:
        """Train to the end of this epoch or phase."""
        name, phase = self._phase()
        length = steps(phase.length, self.per_epoch)
        players = self.method.players(name)
        self.method.train()
        sums: dict[str, Tensor] = {}
        done, stopped = 0, False
        while self.phase_step < length and not stopped:
            state = self._step_state(name, phase, length)
            stopped = isinstance(phase, Clustering) and self._cluster(state, phase, length)
            if stopped:
                break
            self._train_step(state, phase, players, length, sums)
            self.step, self.phase_step, done = self.step + 1, self.phase_step + 1, done + 1
            if self.phase_step % self.per_epoch == 0:
                break
        last = stopped or self.phase_step >= length
        progress = self._progress(name, length, sums, done, last)
        if last:
            self.phase_index, self.phase_step = self.phase_index + 1, 0
            self.optimizers = self._new_optimizers() if self.phase_index < len(self.phases) else {}
        return progress

    def _step_state(self, name: str, phase: Phase, length: int) -> StepState:
        progress = self.phase_step / length
        return StepState(name, phase.alpha_at(progress), progress, self.phase_step // self.per_epoch, self.step)

    def _cluster(self, state: StepState, phase: Clustering, length: int) -> bool:
        """Begin clustering, reset it or update it, where due; whether the phase's stop rule or the method's own holds.

        A later phase starts with an update, so that a method can turn to that phase's targets; it stops none. Nor does
        what has settled while a reset is still to come.
        """
        resets = steps(self.method.reset_every, self.per_epoch)
        reset = bool(resets) and self.begun and self.phase_step > 0 and self.phase_step % resets == 0
        if self.begun and not reset and self.phase_step % steps(phase.update_every, self.per_epoch):
            return False
        torch.manual_seed(seed_of(self.seed, "update", self.step))
        failpoint("update" if self.begun else "begin")
        with self._evaluating(), self._autocast(), torch.no_grad():
            if reset:
                self.method.reset_network()
            if self.begun and not reset:
                labels = self.method.update_clusters(self.shard, self.clusters, state)
            else:
                labels, self.begun = self.method.init_clusters(self.shard, self.clusters), True
        if labels is not None:
            self._judge(labels)
        if reset or (self.phase_step > 0 and self.method.clears_moments):
            self.optimizers = self._new_optimizers(cleared=True)
        if resets and (self.phase_step // resets + 1) * resets < length:
            return False
        settled = labels is not None and phase.tolerance > 0 and self._settled(labels, phase.tolerance)
        return self.phase_step > 0 and (settled or self.method.converged())

    def _settled(self, labels: Tensor, tolerance: float) -> bool:
        """Whether fewer than this share of all rows changed cluster since labels were last compared here."""
        before = self.method.rows.get("settling")
        if before is not None and self.step - self.compared < SETTLING:
            return False
        self.method.rows["settling"], self.compared = labels.clone(), self.step
        if before is None:
            return False
        return self._changed(labels, before) < tolerance

    def _changed(self, labels: Tensor, before: Tensor) -> float:
        """Share of all rows whose cluster is another one than before."""
        if self.method.renames:
            both = collectives.gather(torch.stack([labels, before], 1), self.shard.sizes).cpu().numpy()
            return regrouped_share(both[:, 0], both[:, 1])
        return int(self.clusters.total((labels != before).sum())) / self.shard.total

    def _judge(self, labels: Tensor) -> None:
        """Compare labels with those of the last update, over all workers; the first ones are kept as "initial"."""
        rows, previous = self.method.rows, self.method.rows.get("previous")
        changed = None if previous is None else self._changed(labels, previous)
        rows.setdefault("initial", labels.clone())
        rows["previous"] = labels.clone()
        found = int(collectives.maximum(labels.max() if len(labels) else labels.new_zeros(())))
        counts = torch.bincount(labels, minlength=found + 1)
        sizes = self.clusters.total(counts).tolist()
        self._clustered = (changed, sum(size > 0 for size in sizes), max(sizes) / self.shard.total)

    @flushing_denormals()
    def _train_step(
        self, state: StepState, phase: Phase, players: dict[str, Player], length: int, sums: dict[str, Tensor]
    ) -> None:
        _reseed(seed_of(self.seed, collectives.rank(), self.step), self.shard.device)
        epoch_seed = seed_of(self.seed, "order", self.phase_index, state.epoch)
        at = self.phase_step % self.per_epoch
        batch = self.method.sample_batch(self.shard, state.phase, epoch_seed, at, self.per_epoch)
        seen = self.method.view(batch)
        for name, player in players.items():
            with self._autocast():
                parts = self.method.loss(seen, state, name)
                loss = torch.stack([weight * value.float() for weight, value in parts.values()]).sum()
            optimizer = self.optimizers[name]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            share_gradients(player)
            rule = player.optimizer or phase.optimizer
            rate = rate_at(rule, self.phase_step, length, self.per_epoch)
            for settings, group in zip(optimizer.param_groups, player.groups, strict=True):
                settings["lr"] = rate * group.rate
                if rule.name == "sgd":
                    settings["momentum"] = rule.momentum * self._momentum_share(rule, phase)
            optimizer.step()
            for part, (_, value) in parts.items():
                key = part if len(players) == 1 else f"{name} {part}"
                sums[key] = sums.get(key, 0) + value.detach().float()
        if state.alpha > 0:
            with self._evaluating():
                self.method.after_step(batch, self.clusters, state)

    def _progress(self, name: str, length: int, sums: dict[str, Tensor], done: int, last: bool) -> Progress:
        losses: dict[str, float] = {}
        if done:
            means = torch.stack([*sums.values()]) / done
            means = collectives.total(means) / collectives.workers()
            losses = dict(zip(sums, means.tolist(), strict=True))  # the only wait for the device in an epoch
        epoch = -(-self.phase_step // self.per_epoch)
        wrong = [part for part, value in losses.items() if not math.isfinite(value)]
        if wrong:
            raise TrainingDiverged(
                f"loss {wrong[0]!r} is {losses[wrong[0]]} in phase {name!r}, epoch {epoch}: "
                "lower the learning rate of that phase (its optimizer.lr) or check the scale of the rows"
            )
        epochs = -(-length // self.per_epoch)
        return Progress(name, epoch, epochs, self.step, losses, *self._clustered, last)

    def _momentum_share(self, rule: Optimizer, phase: Phase) -> float:
        """How much of its momentum sgd has now: it rises from 0 where moments began."""
        ramp = steps(rule.momentum_ramp, self.per_epoch)
        since = self.phase_step
        if isinstance(phase, Clustering) and self.method.clears_moments:
            since %= steps(phase.update_every, self.per_epoch)
        return min(1.0, since / ramp) if ramp else 1.0

    def _new_optimizers(self, cleared: bool = False) -> dict[str, torch.optim.Optimizer]:
        """The phase's optimizers. A parameter that was stepped by the same rule before keeps its moments, unless they
        are cleared or its player says fresh: Adam without them takes its first steps at full length, and throws away
        what the phase before had found; with those of a far smaller loss, at several times that.
        """
        name, phase = self._phase()
        players = self.method.players(name)
        optimizers = {
            key: step_rule(player.optimizer or phase.optimizer, player.groups) for key, player in players.items()
        }
        for key, optimizer in optimizers.items():
            before = self.optimizers.get(key)
            if type(before) is type(optimizer) and not (cleared or players[key].fresh):
                stepped = [p for group in optimizer.param_groups for p in group["params"]]
                optimizer.state.update({p: before.state[p] for p in stepped if p in before.state})
                if any("momentum_buffer" in optimizer.state[p] for p in stepped if p in optimizer.state):
                    for p in stepped:  # the fused SGD wants them of all parameters, or of none
                        optimizer.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        return optimizers

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.shard.device.type, torch.bfloat16, enabled=self.bf16)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        was = self.method.training
        self.method.eval()
        try:
            yield
        finally:
            self.method.train(was)

    def shared_state(self) -> dict[str, Any]:
        """What is the same on every worker; plain data and tensors."""
        return {
            "method": self.method.state_dict(),
            "optimizers": {key: _shared_optimizer_state(o, self._local(key)) for key, o in self.optimizers.items()},
            "position": [self.step, self.phase_index, self.phase_step, int(self.begun), self.compared],
            "clustered": list(self._clustered),
        }

    def row_state(self) -> dict[str, Tensor]:
        """What belongs to this worker's rows, each [N, ...]: labels, targets, row-local parameters."""
        state = {f"rows.{key}": value.detach() for key, value in self.method.rows.items()}
        for key, optimizer in self.optimizers.items():
            for i, moments in enumerate(_local_moments(optimizer, self._local(key))):
                state |= {f"optimizers.{key}.{i}.{name}": value for name, value in moments.items()}
        return state

    def load_state(self, shared: dict[str, Any], rows: dict[str, Tensor]) -> None:
        """Put back what `shared_state` and `row_state` gave, the latter cut to this worker's rows."""
        for key, value in rows.items():
            if key.startswith("rows."):
                name = key.removeprefix("rows.")
                kept = self.method.rows.get(name)
                if isinstance(kept, torch.nn.Parameter):
                    kept.data.copy_(value)
                else:
                    self.method.rows[name] = value.to(self.shard.device).clone()
        self.method.load_state_dict(shared["method"])
        self.step, self.phase_index, self.phase_step, begun, self.compared = shared["position"]
        self.begun, self._clustered = bool(begun), tuple(shared["clustered"])
        self.optimizers = self._new_optimizers() if self.phase_index < len(self.phases) else {}
        for key, optimizer in self.optimizers.items():
            _load_optimizer(optimizer, shared["optimizers"][key], rows, f"optimizers.{key}", self._local(key))

    def _local(self, player: str) -> list[bool]:
        """Which parameters of a player's optimizer are row-local, in its order."""
        if self.phase_index >= len(self.phases):
            return []
        groups = self.method.players(self._phase()[0])[player].groups
        return [group.local for group in groups for _ in group.parameters]


def share_gradients(player: Player) -> None:
    """Average the gradients of shared parameters; a parameter without one takes part with zeros.

    A row-local parameter's gradient stays here. Losses are means over workers, so its own share is 1 / W.
    """
    shared = []
    for group in player.groups:
        for p in group.parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            if group.local:
                p.grad /= collectives.workers()
            else:
                shared.append(p.grad)
    collectives.average(shared)


def step_rule(rule: Optimizer, groups: Sequence[Group]) -> torch.optim.Optimizer:
    """The optimizer of these groups."""
    settings: list[dict[str, Any]] = [
        {"params": [*g.parameters], "lr": rule.lr * g.rate, "weight_decay": rule.weight_decay * g.decays}
        for g in groups
    ]
    if rule.name == "sgd":
        return torch.optim.SGD(settings, rule.lr, rule.momentum, nesterov=rule.nesterov, fused=True)
    if rule.name == "rmsprop":
        return torch.optim.RMSprop(settings, rule.lr, rule.decay, rule.eps, momentum=rule.momentum, foreach=True)
    kind = torch.optim.AdamW if rule.name == "adamw" else torch.optim.Adam
    return kind(settings, rule.lr, (rule.beta1, rule.beta2), rule.eps, fused=True)


def rate_at(rule: Optimizer, step: int, length: int, per_epoch: int) -> float:
    """The learning rate at this step of a phase."""
    warm = steps(rule.warm_up, per_epoch)
    return max(rule.lr * _decay(rule, step, length, per_epoch), rule.floor) * min(1.0, (step + 1) / max(warm, 1))


def _decay(rule: Optimizer, step: int, length: int, per_epoch: int) -> float:
    """The learning rate at this step of a phase, over that at its start."""
    if rule.schedule == "step":
        return rule.factor ** (step // max(steps(rule.every, per_epoch), 1))
    if rule.schedule == "cosine":
        return (1 + math.cos(math.pi * step / length)) / 2
    if rule.schedule == "inverse":
        return (1 + rule.factor * step) ** -rule.power
    return 1.0


def _shared_optimizer_state(optimizer: torch.optim.Optimizer, local: list[bool]) -> dict[str, Any]:
    """The optimizer's state without the moments of row-local parameters."""
    state = optimizer.state_dict()["state"]
    return {
        str(i): {k: v for k, v in moments.items() if not (local[i] and isinstance(v, Tensor) and v.dim() > 0)}
        for i, moments in state.items()
    }


def _local_moments(optimizer: torch.optim.Optimizer, local: list[bool]) -> list[dict[str, Tensor]]:
    state = optimizer.state_dict()["state"]
    return [
        {k: v for k, v in state.get(i, {}).items() if isinstance(v, Tensor) and v.dim() > 0}
        for i, row_local in enumerate(local)
        if row_local
    ]


def _load_optimizer(
    optimizer: torch.optim.Optimizer, shared: dict[str, Any], rows: dict[str, Tensor], prefix: str, local: list[bool]
) -> None:
    state = {int(i): dict(moments) for i, moments in shared.items()}
    own = [i for i, row_local in enumerate(local) if row_local]
    for key, value in rows.items():
        if key.startswith(prefix + "."):
            position, moment = key.removeprefix(prefix + ".").split(".")
            state.setdefault(own[int(position)], {})[moment] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


__all__ = ["Group", "Loop", "Progress", "TrainingDiverged", "seed_of", "share_gradients"]
