"""Networks by the names that libraries give them, with weights as those find them; imported when one is named."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raydc.data.encoders.interface import (
    Encoder,
    PictureNetwork,
    best_device,
    digest_of,
    needed,
    version_of,
)

HEADS = ("fc", "classifier", "heads", "head")
"""What torchvision calls the classifier of a network."""


class TorchvisionNetwork(PictureNetwork):
    """A network of torchvision without its classifier, with its default weights."""

    def __init__(self, name: str) -> None:
        models = needed("torchvision.models", "torchvision")
        weights = models.get_model_weights(name).DEFAULT
        network, how = models.get_model(name, weights=weights), weights.transforms()
        for head in HEADS:
            if hasattr(network, head):
                setattr(network, head, nn.Identity())
        self.size = how.crop_size[0]
        super().__init__(network, [255 * value for value in how.mean], [255 * value for value in how.std])
        self.version, self.width = version_of("torchvision"), _width(self)

    def features(self, x: Tensor) -> Tensor:
        return super().features(x).flatten(1)


class TimmNetwork(PictureNetwork):
    """A network of timm without its classifier."""

    def __init__(self, name: str) -> None:
        timm = needed("timm", "timm")
        network = timm.create_model(name, pretrained=True, num_classes=0)
        about = timm.data.resolve_model_data_config(network)
        self.size = about["input_size"][-1]
        super().__init__(network, [255 * value for value in about["mean"]], [255 * value for value in about["std"]])
        self.version, self.width = version_of("timm"), _width(self)


class SentenceTransformer(Encoder):
    """A model of sentence-transformers."""

    takes = "text"

    def __init__(self, name: str) -> None:
        library = needed("sentence_transformers", "sentence-transformers")
        self._model = library.SentenceTransformer(name, device=str(best_device()))
        self.version, self.digest = version_of("sentence-transformers"), digest_of(self._model.state_dict())
        self.width = int(self.vectors(["."]).shape[1])

    def vectors(self, values: list[str]) -> np.ndarray:
        found: np.ndarray = self._model.encode(values, batch_size=len(values), show_progress_bar=False)
        return found


class TransformersText(Encoder):
    """A language model of Hugging Face's transformers: the mean of its last states over a text's tokens."""

    takes = "text"

    def __init__(self, name: str) -> None:
        library = needed("transformers", "transformers")
        self.device = best_device()
        self._tokenizer = library.AutoTokenizer.from_pretrained(name)
        self._model = library.AutoModel.from_pretrained(name, use_safetensors=True).eval().to(self.device)
        self.version, self.digest = version_of("transformers"), digest_of(self._model.state_dict())
        self.width = self._model.config.hidden_size

    def vectors(self, values: list[str]) -> np.ndarray:
        tokens = self._tokenizer(values, padding=True, truncation=True, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            states = self._model(**tokens).last_hidden_state
            own = tokens["attention_mask"].unsqueeze(-1)
            total: np.ndarray = (states * own).sum(1).float().cpu().numpy()
        return total


class TransformersPictures(PictureNetwork):
    """A vision model of Hugging Face's transformers: its image features (CLIP's), or the state of its first token."""

    def __init__(self, name: str) -> None:
        library = needed("transformers", "transformers")
        how = library.AutoImageProcessor.from_pretrained(name)
        network = library.AutoModel.from_pretrained(name, use_safetensors=True)
        about = getattr(how, "crop_size", None) or how.size
        self.size = about.get("height") or about["shortest_edge"]
        super().__init__(network, [255 * value for value in how.image_mean], [255 * value for value in how.image_std])
        self.version, self.width = version_of("transformers"), _width(self)

    def features(self, x: Tensor) -> Tensor:
        if hasattr(self.network, "get_image_features"):
            found: Any = self.network.get_image_features(pixel_values=x)
            return found if isinstance(found, Tensor) else found.pooler_output
        states: Tensor = self.network(pixel_values=x).last_hidden_state
        return states[:, 0] if states.dim() == 3 else states.mean((2, 3))


def transformers_model(name: str) -> Encoder:
    """A model of Hugging Face's transformers, of pictures where its configuration knows their size."""
    about = needed("transformers", "transformers").AutoConfig.from_pretrained(name)
    return (
        TransformersPictures(name)
        if hasattr(about, "image_size") or hasattr(about, "vision_config")
        else (TransformersText(name))
    )


def _width(network: PictureNetwork) -> int:
    """Numbers of a vector, as a picture of nothing has them."""
    return int(network.vectors(np.zeros((1, 3, network.size, network.size), np.uint8)).shape[1])


LIBRARIES: Mapping[str, Callable[[str], Encoder]] = {
    "torchvision": TorchvisionNetwork,
    "timm": TimmNetwork,
    "sentence-transformers": SentenceTransformer,
    "transformers": transformers_model,
}
"""What makes an encoder of a library's name: torchvision/resnet50."""
