"""The networks for segmentation that no library has, in torch as their papers draw them: peers of `bench models`.

Their layers have the names that `interop.to_torch` gives to ours. Images NCHW of any size give logits of that size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

DEPTHS, WIDTHS = (2, 2, 3, 3, 3), (64, 128, 256, 512, 512)  # VGG-16's convolutions of each stage, and their channels


def vgg(depths: Sequence[int], widths: Sequence[int], batch_norm: bool) -> nn.Sequential:
    """Return the convolutions, each with a ReLU, and the poolings after each stage."""
    layers, channels = list[nn.Module](), 3
    for depth, width in zip(depths, widths, strict=True):
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), *[nn.BatchNorm2d(width)] * batch_norm]
            layers.append(nn.ReLU(inplace=True))
            channels = width
        layers.append(nn.MaxPool2d(2, return_indices=batch_norm))
    return nn.Sequential(*layers)


def padded(x: torch.Tensor, stride: int) -> torch.Tensor:
    """Pad with zeros to multiples of a stride."""
    return F.pad(x, (0, -x.shape[3] % stride, 0, -x.shape[2] % stride))


class FCN8s(nn.Module):
    """Long, Shelhamer & Darrell (2014), on VGG-16 with its fully connected layers as convolutions."""

    def __init__(
        self, classes: int = 21, depths: Sequence[int] = DEPTHS, widths: Sequence[int] = WIDTHS, hidden: int = 4096
    ):
        super().__init__()
        self.backbone = vgg(depths, widths, batch_norm=False)
        self.fully_connected = nn.ModuleDict(
            {"fc6": nn.Conv2d(widths[4], hidden, 7, padding=3), "fc7": nn.Conv2d(hidden, hidden, 1)}
        )
        self.score = nn.Conv2d(hidden, classes, 1)
        self.skips = nn.ModuleList(nn.Conv2d(width, classes, 1) for width in (widths[3], widths[2]))
        self.upscores = nn.ModuleList(
            nn.ConvTranspose2d(classes, classes, 2 * s, s, s // 2, bias=False) for s in (2, 2, 8)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size, maps, x = x.shape[2:], [], padded(x, 32)
        for layer in self.backbone:
            x = layer(x)
            maps += [x] if isinstance(layer, nn.MaxPool2d) else []
        for layer in self.fully_connected.values():
            x = F.dropout(F.relu(layer(x)), training=self.training)
        x = self.upscores[0](self.score(x)) + self.skips[0](maps[3])
        x = self.upscores[1](x) + self.skips[1](maps[2])
        return self.upscores[2](x)[:, :, : size[0], : size[1]]


class SegNet(nn.Module):
    """Badrinarayanan, Kendall & Cipolla (2015): VGG-16 with batch normalisation, and its mirror image."""

    def __init__(self, classes: int = 21, depths: Sequence[int] = DEPTHS, widths: Sequence[int] = WIDTHS):
        super().__init__()
        self.backbone = vgg(depths, widths, batch_norm=True)
        stages = []
        for stage in reversed(range(len(depths))):
            outputs = [*[widths[stage]] * (depths[stage] - 1), widths[stage - 1] if stage else classes]
            layers, channels = list[nn.Module](), widths[stage]
            for width in outputs:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
            stages.append(nn.Sequential(*layers if stage else layers[:-2]))
        self.decoder = nn.Sequential(*stages)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size, switches, x = x.shape[2:], [], padded(x, 32)
        for layer in self.backbone:
            if isinstance(layer, nn.MaxPool2d):
                x, indices = layer(x)
                switches.append(indices)
            else:
                x = layer(x)
        for stage in self.decoder:
            x = stage(F.max_unpool2d(x, switches.pop(), [2, 2]))
        return x[:, :, : size[0], : size[1]]


class UNet(nn.Module):
    """Ronneberger, Fischer & Brox (2015), with convolutions that keep the size."""

    def __init__(self, classes: int = 21, widths: Sequence[int] = (64, 128, 256, 512, 1024)):
        super().__init__()

        def block(inputs: int, width: int) -> nn.Sequential:
            convs = [nn.Conv2d(channels, width, 3, padding=1) for channels in (inputs, width)]
            return nn.Sequential(convs[0], nn.ReLU(inplace=True), convs[1], nn.ReLU(inplace=True))

        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))  # from the lowest resolution on
        self.down = nn.Sequential(*(block(ins, outs) for ins, outs in zip((3, *widths), widths, strict=False)))
        self.up = nn.Sequential(*(nn.ConvTranspose2d(wide, width, 2, 2) for wide, width in pairs))
        self.merge = nn.Sequential(*(block(2 * width, width) for _, width in pairs))
        self.score = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size, skips, x = x.shape[2:], list[torch.Tensor](), padded(x, 2 ** len(self.up))
        for block in self.down:
            x = block(F.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.score(x)[:, :, : size[0], : size[1]]


NETWORKS: dict[str, Any] = {"fcn8s_vgg16": FCN8s, "segnet_vgg16": SegNet, "unet": UNet}
