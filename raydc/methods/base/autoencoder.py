"""Methods that pretrain an autoencoder, and cluster its code."""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from raydc.core.schedule import Clustering, Length, Optimizer, Phase, Pretraining, Reset
from raydc.core.settings import fields
from raydc.data import Batch
from raydc.methods.base.method import Group, Method, Player, StepState
from raydc.networks import Autoencoder, Network
from raydc.networks.init import redraw
from raydc.networks.losses.reconstruction import mean_squared_error

BiasRate = Annotated[
    float, Field(gt=0, description="Learning rate of the network's biases, times that of its weights.")
]


class AutoencoderMethod(Method):
    """Shared by the methods that pretrain an autoencoder on its reconstruction loss and then cluster its code.

    Pretraining is the same for every data set: Glorot's weights and 300 epochs of Adam, rate .001 falling as a cosine,
    on rows as they are; a method whose source has another says so in its own settings. Recipes: "paper" is DEC's Caffe
    code: every layer 50,000 steps as a denoising autoencoder, then the whole 100,000 steps, by SGD whose rate is
    divided by 10 every 20,000 steps and whose biases step twice as far. "keras" is the end-to-end pretraining of
    DEC-keras on MNIST. "image" is the augmentation of DEC-DA (Guo, Zhu, Liu & Yin, ACML 2018), of pretraining too.
    """

    class Config(Method.Config):
        network: Network = Network()
        layerwise: Pretraining = Pretraining(length="0 steps", corruption=0.2)
        denoise: Pretraining = Pretraining(length="0 epochs", corruption=0.2)
        pretrain: Pretraining = Pretraining(length="300 epochs", optimizer=Optimizer(schedule="cosine"))
        bias_rate: BiasRate = 1.0
        reset: Reset = Reset()

        unreset: ClassVar[str] = ""
        """Why the network cannot be reset while clusters form, where it cannot."""

        def idle(self, shape: tuple[int, ...]) -> dict[str, str]:
            paths = [f"layerwise.{path}" for path, _ in fields(Pretraining) if self.network.convolutional(shape)]
            unreset = self._why_never_reset(shape)
            return (
                super().idle(shape)
                | dict.fromkeys(paths, "layers are pretrained one at a time in an mlp or a dbn alone")
                | (dict.fromkeys(["reset.every", "reset.keep"], unreset) if unreset else {})
            )

        def _why_never_reset(self, shape: tuple[int, ...]) -> str:
            phases = [getattr(self, name) for name in type(self).model_fields]
            if not any(isinstance(phase, Clustering) and not phase.left_out for phase in phases):
                return "nothing is clustered while the network learns"
            layers = self.network.channels if self.network.convolutional(shape) else self.network.hidden
            return self.unreset or ("" if layers else "the encoder has no hidden layer")

        recipes: ClassVar[dict[str, dict[str, Any]]] = {
            "paper": {
                "network.initial": "normal",
                **{
                    f"{phase}.{key}": value
                    for phase in ("layerwise", "pretrain")
                    for key, value in {
                        "optimizer.name": "sgd",
                        # theirs is .1, of half the mean over features, on rows of a mean square of 2.92
                        "optimizer.lr": 0.15,
                        "optimizer.momentum": 0.9,
                        "optimizer.momentum_ramp": "1000 steps",
                        "optimizer.schedule": "step",
                        "optimizer.factor": 0.1,
                        "optimizer.every": "20000 steps",
                    }.items()
                },
                "layerwise.length": "50000 steps",
                "pretrain.length": "100000 steps",
                "bias_rate": 2.0,
            },
            "keras": {
                "network.initial": "fan_in",
                "pretrain.optimizer.name": "sgd",
                "pretrain.optimizer.lr": 0.1,  # theirs is 1, of rows in [0, 1], whose mean square is .112
                "pretrain.optimizer.momentum": 0.9,
                "pretrain.optimizer.schedule": "constant",
            },
            "image": {"augment.shift": 0.1, "augment.rotate": 10.0},
        }

    quick: ClassVar[dict[str, Any]] = {
        "network.hidden": (64,),
        "network.latent": 5,
        "network.channels": (8, 16),
        "pretrain.length": "15 epochs",
    }
    config: Config
    net: Autoencoder

    @property
    def reset_every(self) -> Length:
        return self.config.reset.every

    @torch.no_grad()
    def reset_network(self) -> None:
        """keep * weight + (1 - keep) * draw, in the encoder's hidden layers; the embedding layer is spared."""
        for layer in self.net.hidden_layers():
            redraw(layer, self.config.reset.keep)

    def __init__(self, config: Config, shape: tuple[int, ...], latent: int | None = None) -> None:
        """`latent` is the size of the code, where that is no setting but follows from the method."""
        super().__init__(config, shape)
        self.net = config.network.build(shape, latent)

    def phases(self) -> dict[str, Phase]:
        """Those of the settings, and in place of `layerwise` one for every layer."""
        phases = super().phases()
        layer = phases.pop("layerwise")
        return {f"layer {i + 1}": layer for i in range(self.net.layers)} | phases

    def players(self, phase: str) -> dict[str, Player]:
        layer = self._layer(phase)
        return {
            "all": Player(self.groups(self.net.parameters() if layer is None else self.net.layer_parameters(layer)))
        }

    def groups(self, parameters: Iterable[Tensor]) -> list[Group]:
        """The network's parameters as they step: weights, and biases at their own rate."""
        parameters = [*parameters]
        weights, biases = ([p for p in parameters if (p.dim() > 1) == many] for many in (True, False))
        return [Group(weights), Group(biases, self.config.bias_rate)]

    def features(self, x: Tensor) -> Tensor:
        return self.net.encode(x)

    def network_loss(self, batch: Batch, state: StepState) -> Tensor:
        phase = self.phases()[state.phase]
        corruption = phase.corruption if isinstance(phase, Pretraining) else 0.0
        layer = self._layer(state.phase)
        if layer is not None:
            return batch.mean(self.net.layer_error(batch.x, layer, corruption))
        return batch.mean(self.reconstruction_error(batch.x, F.dropout(batch.x, corruption)))

    def reconstruction_error(self, x: Tensor, corrupted: Tensor) -> Tensor:
        """Of each row [B], rebuilt from its corrupted copy; the mean over features."""
        return mean_squared_error(x.flatten(1), self.net(corrupted).flatten(1))

    @staticmethod
    def _layer(phase: str) -> int | None:
        return int(phase.removeprefix("layer ")) - 1 if phase.startswith("layer ") else None


def copy_pretrained(method: Method, weights: dict[str, Tensor]) -> list[str]:
    """Copy another run's network weights `net.*` into `method`; the names copied.

    Raises ValueError naming the first weight that is missing or of another shape.
    """
    own = {name: value for name, value in method.state_dict().items() if name.startswith("net.")}
    for name, value in own.items():
        if name not in weights:
            raise ValueError(f"the other run has no weight {name}: was it trained with the same network?")
        if weights[name].shape != value.shape:
            theirs, mine = tuple(weights[name].shape), tuple(value.shape)
            raise ValueError(
                f"{name} is {theirs} in the other run and {mine} here: use the same method.network settings"
            )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(weights[name])
    return [*own]
