"""What every autoencoder offers."""

from torch import Tensor, nn

from raydc.networks.losses.reconstruction import mean_squared_error


class Autoencoder(nn.Module):
    """An encoder to `latent` numbers a row, and a decoder back."""

    latent: int
    layers: int = 0
    """Layers that can be pretrained one at a time; 0 where that is not defined."""
    widths: tuple[int, ...]
    """Numbers a row has in each of the encoder's `activations`."""

    def activations(self, x: Tensor) -> list[Tensor]:
        """What each layer of the encoder makes of x [B, ...], each [B, ...]; the code [B, latent] is the last."""
        raise NotImplementedError

    def encode(self, x: Tensor) -> Tensor:
        """z [B, latent] of x [B, ...]."""
        return self.activations(x)[-1]

    def decode(self, z: Tensor) -> Tensor:
        """x [B, ...] of z [B, latent]."""
        raise NotImplementedError

    def encoder_parameters(self) -> list[nn.Parameter]:
        """What `encode` depends on: all but the modules named `decoder...` and `back`."""
        return [p for name, p in self.named_parameters() if not name.startswith(("decoder", "back"))]

    def hidden_layers(self) -> list[nn.Module]:
        """Linear and convolutional layers of the encoder before the one that gives the code."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def reconstruct_layer(self, x: Tensor, layer: int, corruption: float) -> tuple[Tensor, Tensor]:
        """(input, its reconstruction) of one layer's own denoising autoencoder, on top of the layers before it."""
        raise NotImplementedError

    def layer_error(self, x: Tensor, layer: int, corruption: float) -> Tensor:
        """What pretraining `layer` descends, of each row [B]: by default the error of `reconstruct_layer`."""
        clean, decoded = self.reconstruct_layer(x, layer, corruption)
        return mean_squared_error(clean.flatten(1), decoded.flatten(1))

    def layer_parameters(self, layer: int) -> list[nn.Parameter]:
        """What pretraining `layer` trains."""
        raise NotImplementedError
