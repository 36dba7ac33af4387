"""Convolutional autoencoders: images through a short code and back.

Masci, Meier, Ciresan & Schmidhuber, "Stacked convolutional auto-encoders for hierarchical feature extraction" (2011);
Vincent, Larochelle, Bengio & Manzagol, "Extracting and composing robust features with denoising autoencoders" (2008),
here with Gaussian noise.
"""

from functools import partial

import jax
from flax import nnx

from cnnjax import geometry
from cnnjax.models.images import check_image_shape
from cnnjax.models.registry import register
from cnnjax.nn import Activation, Conv, ConvTranspose, Linear, Module, Sequential
from cnnjax.ops.arguments import integer

WIDTHS = (32, 64, 128)  # channels after each halving of the size


class GaussianNoise(Module):
    """Add noise N(0, deviation^2) in training; in `eval` the identity."""

    def __init__(self, deviation: float, *, rngs: nnx.Rngs):
        if not 0 <= deviation < float("inf"):
            raise ValueError(f"noise must be at least 0 and finite, got {deviation}")
        self.deviation = deviation
        self.rngs = nnx.Rngs(dropout=rngs.dropout())
        self.deterministic = False  # set by train() and eval()

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.deterministic or not self.deviation:
            return x
        return x + self.deviation * jax.random.normal(self.rngs.dropout(), x.shape, x.dtype)


@register("conv_autoencoder", task="reconstruction")
class Autoencoder(Module):
    """Three convolutions with stride 2, a linear layer to the code, and their mirror image back to an image.

    Args:
        num_classes: accepted like in every model and ignored; an autoencoder has no classes.
        in_channels: channels of the images.
        image_size: height and width of the images.
        code_size: size of the code that an image is reduced to.
        noise: standard deviation of the noise added to the images in training, for a denoising autoencoder.
        rngs: source of the initial parameters and of the noise.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        num_classes: int = 0,
        in_channels: int,
        image_size: int = 32,
        code_size: int = 128,
        noise: float = 0.0,
        rngs: nnx.Rngs,
    ):
        image_size, code_size = integer("image_size", image_size, 1), integer("code_size", code_size, 1)
        self.image_shape = (image_size, image_size, in_channels)
        self.noise = GaussianNoise(noise, rngs=rngs)
        encoder: list[Module] = []
        decoder: list[Module] = []
        size, channels = image_size, in_channels
        for width in WIDTHS:
            encoder += [Conv(channels, width, 3, 2, 1, init="he_normal", rngs=rngs), Activation(nnx.relu)]
            # The transposed convolution gives an odd size; one more pixel is an even one.
            up = ConvTranspose(width, channels, 3, 2, 1, 1 - size % 2, init="he_normal", rngs=rngs)
            decoder = [Activation(nnx.relu), up, *decoder]
            size, channels = geometry.conv_output_size(size, 3, stride=2, padding=1), width
        self.encoder = Sequential(*encoder)
        self.encode_linear = Linear((size, size, channels), code_size, init="he_normal", rngs=rngs)
        self.decode_linear = Linear(code_size, size * size * channels, init="he_normal", rngs=rngs)
        self.decoder = Sequential(*decoder)
        self.map_shape = (size, size, channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.decode(self.encode(self.noise(x)))

    def encode(self, x: jax.Array) -> jax.Array:
        """Return the codes (batch, code_size) of images (batch, height, width, channels).

        Raises:
            UserError: the images have another shape than the network was built for.
        """
        check_image_shape(self, x, self.image_shape)
        return self.encode_linear(self.encoder(x))

    def decode(self, code: jax.Array) -> jax.Array:
        """Return the images of codes."""
        return self.decoder(self.decode_linear(code).reshape(code.shape[0], *self.map_shape))


register("denoising_autoencoder", task="reconstruction")(partial(Autoencoder, noise=0.1))
