"""Which network is trained when the user names none? DeepLabv3+ on torchvision's ResNet, not pretrained.

Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", arXiv
1802.02611, with the separable ASPP and decoder of its section 3; section numbers below are that paper's.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn
from torchvision.models import resnet

ASPP_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
"""Atrous rates by output stride (section 4): others change the field of view, not the cost."""

ASPP_CHANNELS = 256
LOW_LEVEL_CHANNELS = 48
"""Width of the reduced low-level features (section 4.1, table 1): wider ones outweigh the ASPP's."""

ASPP_DROPOUT = 0.1
"""Share of the ASPP's output channels dropped in training, as in the authors' released code."""


def deeplabv3plus(backbone: str = "resnet50", output_stride: int = 16, class_count: int = 21) -> nn.Module:
    """Return a randomly initialised DeepLabv3+ whose output has the size of its input.

    It maps images (batch_size, 3, H, W) to logits (batch_size, class_count, H, W) for any H and W. A training
    batch must hold at least 2 images: the ASPP's pooling branch normalises one value a channel and image, and
    torch raises "Expected more than 1 value per channel when training" for a batch of 1.

    Args:
        backbone: "resnet18", "resnet34", "resnet50" or "resnet101".
        output_stride: Input pixels to one encoder pixel, 16 or 8.
        class_count: Channels of the last layer.

    Raises:
        ValueError: The backbone or the output stride is none of these.
    """
    if backbone not in {"resnet18", "resnet34", "resnet50", "resnet101"}:
        raise ValueError(f"no such backbone: {backbone!r}")
    if output_stride not in ASPP_RATES:
        raise ValueError(f"the output stride is 8 or 16, not {output_stride}")
    return DeepLabV3Plus(getattr(resnet, backbone)(weights=None), output_stride, class_count)


class DeepLabV3Plus(nn.Module):
    """Encoder, ASPP, decoder and a 1x1 classifier (section 3.1, figure 2).

    Args:
        trunk: A ResNet as torchvision builds it, with output stride 32.
        output_stride: 16 or 8.
        class_count: Channels of the last layer.
    """

    def __init__(self, trunk: resnet.ResNet, output_stride: int, class_count: int) -> None:
        super().__init__()
        self.encoder = Encoder(trunk, output_stride)
        self.aspp = AtrousSpatialPyramidPooling(trunk.fc.in_features, ASPP_RATES[output_stride])
        low_level_channels = trunk.fc.in_features // 8  # layer1 is three doublings below layer4
        self.reduce = conv_norm_relu(low_level_channels, LOW_LEVEL_CHANNELS, 1)
        self.decoder = nn.Sequential(
            separable_conv(ASPP_CHANNELS + LOW_LEVEL_CHANNELS, ASPP_CHANNELS),
            separable_conv(ASPP_CHANNELS, ASPP_CHANNELS),
        )
        self.classifier = nn.Conv2d(ASPP_CHANNELS, class_count, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map (batch_size, 3, H, W) to logits (batch_size, class_count, H, W)."""
        low_level, high_level = self.encoder(images)
        context = _resize(self.aspp(high_level), low_level)
        refined = self.decoder(torch.cat([context, self.reduce(low_level)], dim=1))
        return _resize(self.classifier(refined), images)


class Encoder(nn.Module):
    """A ResNet without its classifier, its last stages atrous instead of strided.

    Args:
        trunk: A ResNet as torchvision builds it.
        output_stride: 16 (layer4 is dilated) or 8 (layer3 and layer4 are).
    """

    def __init__(self, trunk: resnet.ResNet, output_stride: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(trunk.conv1, trunk.bn1, trunk.relu, trunk.maxpool)
        self.layer1, self.layer2 = trunk.layer1, trunk.layer2
        self.layer3, self.layer4 = trunk.layer3, trunk.layer4
        dilation = 1
        for stage in (self.layer3, self.layer4)[output_stride // 8 - 1 :]:
            dilation = dilate(stage, dilation)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features at stride 4 and at the output stride."""
        low_level = self.layer1(self.stem(images))
        return low_level, self.layer4(self.layer3(self.layer2(low_level)))


def dilate(stage: nn.Module, dilation: int) -> int:
    """Take the stride out of a ResNet stage, in place, and return the dilation that its output has.

    A convolution that loses its stride keeps the dilation of its input; every 3x3 after it is spread by what
    the stride skipped. Every second output in each direction is then what the strided stage computes.
    torchvision's BasicBlock refuses dilation when it is constructed, so all ResNets are changed afterwards.

    Args:
        stage: layer3 or layer4 of a torchvision ResNet, strided by 2 at its first block.
        dilation: Dilation that the stage's input has.
    """
    for conv in (module for module in stage.modules() if isinstance(module, nn.Conv2d)):
        loses_stride = conv.stride == (2, 2)
        conv.stride = (1, 1)
        if conv.kernel_size == (3, 3):
            conv.dilation = conv.padding = (dilation, dilation)
            dilation = dilation * 2 if loses_stride else dilation
    return dilation


class AtrousSpatialPyramidPooling(nn.Module):
    """A 1x1, three separable atrous 3x3 and an image-level branch side by side, joined by a 1x1.

    Args:
        in_channels: Channels of the encoder's output.
        rates: Dilations of the three 3x3 branches.
    """

    def __init__(self, in_channels: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv_norm_relu(in_channels, ASPP_CHANNELS, 1)])
        self.branches.extend(separable_conv(in_channels, ASPP_CHANNELS, rate) for rate in rates)
        self.pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_norm_relu(in_channels, ASPP_CHANNELS, 1))
        joined_channels = ASPP_CHANNELS * (len(self.branches) + 1)
        self.project = nn.Sequential(
            conv_norm_relu(joined_channels, ASPP_CHANNELS, 1),
            nn.Dropout(ASPP_DROPOUT),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch_size, in_channels, h, w) to (batch_size, 256, h, w)."""
        image_level = self.pooling(features).expand(-1, -1, *features.shape[-2:])
        pyramid = torch.cat([*(branch(features) for branch in self.branches), image_level], dim=1)
        projected: Tensor = self.project(pyramid)
        return projected


def conv_norm_relu(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """Return a convolution, batch normalisation and ReLU that keep height and width."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def separable_conv(in_channels: int, out_channels: int, dilation: int = 1) -> nn.Sequential:
    """Return a depthwise 3x3 and a pointwise 1x1 (section 3.1), then batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False),
        *conv_norm_relu(in_channels, out_channels, 1),
    )


def _resize(features: Tensor, like: Tensor) -> Tensor:
    """Resize bilinearly to the height and width of `like`."""
    return F.interpolate(features, size=like.shape[-2:], mode="bilinear", align_corners=False)
