"""Section 2.5 of the taxonomy: how training is laid out in time, as data."""

import math
import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from raydc.core.settings import Settings, fields


def _length(value: Any) -> str:
    text = f"{value} epochs" if isinstance(value, int | float) else str(value)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*(epochs?|steps?)?\s*", text)
    if not found or not math.isfinite(float(found[1])):
        raise ValueError('expected a length such as "300 epochs" or "5000 steps"')
    unit = (found[2] or "epochs").rstrip("s") + "s"
    number = float(found[1])
    return f"{int(number) if number.is_integer() else number!r} {unit}"


def _interval(value: Any) -> str:
    text = _length(value)
    if not steps(text, 1):
        raise ValueError('expected an interval above 0, such as "1 epochs"')
    return text


Length = Annotated[str, BeforeValidator(_length)]
"""How long something lasts: "300 epochs", "5000 steps", or a number of epochs."""
Interval = Annotated[str, BeforeValidator(_interval)]
"""A length above zero."""


def steps(length: str, per_epoch: int) -> int:
    """A length in optimizer steps, where an epoch has `per_epoch` of them; at least one unless the length is zero."""
    number, unit = length.split()
    exact = float(number) * (per_epoch if unit == "epochs" else 1)
    return max(round(exact), 1) if exact else 0


class Optimizer(Settings):
    """A step rule and its learning rate over time."""

    acts_with: ClassVar[dict[str, tuple[str, tuple[Any, ...]]]] = {
        "momentum": ("name", ("sgd", "rmsprop")),
        "nesterov": ("name", ("sgd",)),
        "momentum_ramp": ("name", ("sgd",)),
        "decay": ("name", ("rmsprop",)),
        "beta1": ("name", ("adam", "adamw")),
        "beta2": ("name", ("adam", "adamw")),
        "eps": ("name", ("adam", "adamw", "rmsprop")),
        "factor": ("schedule", ("step", "inverse")),
        "every": ("schedule", ("step",)),
        "power": ("schedule", ("inverse",)),
        "floor": ("schedule", ("step", "cosine", "inverse")),
    }
    name: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    """Step rule; adamw decays weights apart from the gradient (Loshchilov & Hutter, ICLR 2019)."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate at the start of a phase."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Momentum of sgd and rmsprop."""
    nesterov: bool = False
    """Nesterov's form of sgd's momentum."""
    momentum_ramp: Length = "0 steps"
    """Over which sgd's momentum rises evenly from 0, at the start of a phase and wherever moments are cleared."""
    decay: float = Field(0.99, ge=0, lt=1)
    """rmsprop's decay of the mean square of gradients."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Adam's decay of the first moment."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Adam's decay of the second moment."""
    eps: float = Field(1e-8, gt=0)
    """Added to the denominator of adam and rmsprop."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty; of adamw the share of a weight that a step of rate 1 takes away."""
    schedule: Literal["constant", "step", "cosine", "inverse"] = "constant"
    """step: times `factor` every `every`; cosine: to zero over the phase; inverse: (1 + factor * step) ** -power."""
    factor: float = Field(0.1, gt=0)
    """Factor of the step and inverse schedules."""
    every: Interval = "10 epochs"
    """Interval of the step schedule."""
    power: float = Field(0.75, gt=0)
    """Power of the inverse schedule."""
    floor: float = Field(0.0, ge=0)
    """The learning rate never falls under this, once it is warm."""
    warm_up: Length = "0 steps"
    """Over which the learning rate rises evenly from 0, at the start of a phase."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum greater than 0")
        if self.floor > self.lr:
            raise ValueError(f"floor {self.floor:g} is above lr {self.lr:g}: the learning rate would rise to it")
        return self


class Phase(Settings):
    """One stretch of training with its own optimizer and length."""

    length: Length = "100 epochs"
    """How long it lasts at most; 0 leaves it out."""
    optimizer: Optimizer = Optimizer()
    """How the network's parameters step."""

    @property
    def left_out(self) -> bool:
        """Whether its length is zero."""
        return not steps(self.length, 1)

    def idle(self, shape: tuple[int, ...]) -> dict[str, str]:
        paths = [path for path, _ in fields(type(self)) if path != "length"]
        return dict.fromkeys(paths, "the phase has length 0") if self.left_out else super().idle(shape)

    def alpha_at(self, progress: float) -> float:
        """Weight of the clustering loss (eq. 11) at this progress in [0, 1) of the phase."""
        return 0.0


class Pretraining(Phase):
    """One in which an autoencoder learns to reconstruct its rows, or what was hidden of them."""

    corruption: float = Field(0.0, ge=0, lt=1)
    """Share of the network's inputs set to zero (denoising)."""


class Reset(Settings):
    """Networks drawn anew in part while clusters form (Miklautz et al., "Breaking the reclustering barrier")."""

    every: Length = "0 epochs"
    """How often the encoder's hidden layers are drawn anew in part, clusters made anew from the codes and moments
    cleared (BRB; its authors took 20 epochs); 0 never. The phase's stop rule acts after the last reset."""
    keep: float = Field(0.8, ge=0, lt=1)
    """Share of each weight that a reset keeps."""

    @property
    def never(self) -> bool:
        """Whether nothing is reset."""
        return not steps(self.every, 1)

    def idle(self, shape: tuple[int, ...]) -> dict[str, str]:
        return {"keep": "nothing is reset"} if self.never else {}


class Clustering(Phase):
    """One in which clusters are updated, with a stop rule. Where there are several losses, the method weighs them."""

    update_every: Interval = "1 epochs"
    """Interval between two cluster updates, once clustering has begun."""
    tolerance: float = Field(0.0, ge=0, lt=1)
    """Stop the phase when fewer than this share of all rows changed cluster since an update at least 140 steps before
    (IDEC's interval on MNIST: in the few steps of a small set's epoch nothing moves); 0 never stops."""

    def alpha_at(self, progress: float) -> float:
        return 1.0


class Refinement(Clustering):
    """One that may follow clustering and makes more of it; it can be left out."""


class Joint(Clustering):
    """One in which the clustering loss is weighed against the network's (eq. 11)."""

    alpha: float = Field(0.5, gt=0, le=1)
    """Weight of the clustering loss: alpha * clustering + (1 - alpha) * network."""
    ramp: float = Field(0.0, ge=0, le=1)
    """Share of the phase over which alpha rises linearly from 0 to its value."""

    def alpha_at(self, progress: float) -> float:
        return self.alpha * min(1.0, progress / self.ramp) if self.ramp else self.alpha
