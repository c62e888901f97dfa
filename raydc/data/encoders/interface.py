"""What turns raw values into vectors: a frozen network whose name, version and weights are known."""

import hashlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from types import ModuleType
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from raydc.core.autocast import exact_float32
from raydc.data.source import DataError

Takes = Literal["text", "picture"]
"""Kinds of raw values."""
TINY = 1e-12
"""Length of a vector below which it has no direction."""


class EncoderError(DataError):
    """An encoder that cannot be had, or another one than a model was trained with."""


class Encoder(ABC):
    """A frozen network from raw values to vectors, the same in every process."""

    takes: ClassVar[Takes]
    """Texts, or pictures."""
    version: str
    """Of what computes the vectors, such as a package's."""
    digest: str
    """sha256 of the weights."""
    width: int
    """Numbers of a vector."""
    size: int = 224
    """Height and width that pictures are brought to: the shorter side, and the middle of the longer one."""
    batch: int = 64
    """Values that are encoded together."""

    @abstractmethod
    def vectors(self, values: Any) -> np.ndarray:
        """Vectors [B, width] of any length, of B = `batch` texts in a list, or uint8 pictures [B, 3, size, size] in
        RGB. What it says of a value must not depend on the others.
        """


class PictureNetwork(Encoder):
    """A torch network of pictures, on this process's GPU where it has one."""

    takes = "picture"

    def __init__(self, network: nn.Module, mean: Sequence[float], deviation: Sequence[float]) -> None:
        """`mean` and `deviation` of each channel are those of training, for pixels of 0 to 255."""
        self.device = best_device()
        self.batch = 64 if self.device.type == "cuda" else 4
        self.digest = digest_of(network.state_dict())
        self.network = network.eval().to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._mean, self._deviation = (
            torch.tensor(each, dtype=torch.float32, device=self.device).view(1, 3, 1, 1) for each in (mean, deviation)
        )

    def features(self, x: Tensor) -> Tensor:
        """Vectors [B, width] of pictures [B, 3, size, size] that are standardised."""
        found: Tensor = self.network(x)
        return found

    def vectors(self, values: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(values).to(self.device, torch.float32, memory_format=torch.channels_last)
        with torch.inference_mode():
            return self.features((x - self._mean) / self._deviation).float().cpu().numpy()


def in_batches(encoder: Encoder, values: Any) -> np.ndarray:
    """Vectors float32 [n, width], each of length one, or zero where it has none; of n values as `Encoder.vectors`
    takes them.

    Batches are of one size, the last filled up, and sums run on one thread: so a value's vector does not depend on the
    others, nor on who asks. EncoderError where the encoder gives something else.
    """
    x = np.zeros((len(values), encoder.width), np.float32)
    with exact_float32(), _one_thread():
        for start in range(0, len(values), encoder.batch):
            part = values[start : start + encoder.batch]
            found = np.asarray(encoder.vectors(_filled(part, encoder.batch)))
            if found.shape != (encoder.batch, encoder.width):
                raise EncoderError(
                    f"{type(encoder).__name__}: expected vectors {(encoder.batch, encoder.width)} of {encoder.batch} "
                    f"values, got {found.shape}"
                )
            x[start : start + encoder.batch] = found[: len(part)]
    length = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))[:, None]
    return np.where(length > TINY, x / np.where(length > TINY, length, 1.0), x * 0).astype(np.float32)


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """sha256 over the name, type, shape and bytes of every tensor."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        held = value.detach().cpu().contiguous()
        digest.update(f"{name} {held.dtype} {tuple(held.shape)}\n".encode())
        digest.update(held.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def best_device() -> torch.device:
    """This process's GPU, where it has one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def needed(module: str, extra: str) -> ModuleType:
    """A library. EncoderError names the extra that brings it where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as problem:
        raise EncoderError(
            f"data.encoder: {module} is missing ({problem}); install it: pip install 'raydc[{extra}]'"
        ) from problem


def version_of(package: str) -> str:
    """A package with its version, as a model remembers it."""
    return f"{package} {metadata.version(package)}"


def _filled(part: Any, size: int) -> Any:
    """The values, and as many empty ones as a batch lacks."""
    short = size - len(part)
    if isinstance(part, np.ndarray):
        return np.concatenate([part, np.zeros((short, *part.shape[1:]), part.dtype)]) if short else part
    return [*part, *[""] * short]


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
