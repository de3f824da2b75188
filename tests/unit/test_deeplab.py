"""DeepLabv3+: its size, its output, and that dilating a ResNet changes nothing but the stride."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet

from loadtune.workload.deeplab import Encoder, deeplabv3plus


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("backbone", "output_stride", "expected"),
    [("resnet50", 16, 26_682_725), ("resnet50", 8, 26_682_725), ("resnet101", 16, 45_674_853)],
)
def test_parameter_count_is_the_published_one(backbone, output_stride, expected):
    """The count tells a separable ASPP and decoder of the paper's widths from any other."""
    assert count_parameters(deeplabv3plus(backbone, output_stride)) == expected


@pytest.mark.parametrize(("height", "width"), [(65, 65), (64, 97)])
def test_output_has_the_size_of_the_input(height, width):
    """Sides that are no multiple of the stride are taken too."""
    model = deeplabv3plus("resnet18", class_count=5).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, height, width)).shape == (1, 5, height, width)


def test_513_pixels_are_taken():
    """The side that DeepLab trains with, and that libraries demanding a multiple of 16 refuse."""
    model = deeplabv3plus("resnet18", class_count=2).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 513, 513)).shape == (1, 2, 513, 513)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50"])
@pytest.mark.parametrize(("output_stride", "side"), [(16, 5), (8, 9)])
def test_encoder_has_the_stride_asked_for(backbone, output_stride, side):
    """65 pixels are 5 at stride 16 and 9 at stride 8; the low level is at stride 4."""
    encoder = deeplabv3plus(backbone, output_stride).encoder.eval()
    with torch.no_grad():
        low_level, high_level = encoder(torch.zeros(1, 3, 65, 65))
    assert (low_level.shape[-1], high_level.shape[-1]) == (17, side)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@pytest.mark.parametrize("output_stride", [16, 8])
def test_dilated_encoder_computes_what_the_strided_one_does(backbone, output_stride):
    """Every second (fourth) output of the atrous network is the original network's output, exactly placed."""
    trunk = getattr(resnet, backbone)(weights=None).eval().double()  # in float32 processors differ by more than this
    images = torch.randn(1, 3, 97, 97, dtype=torch.float64)
    body = nn.Sequential(*list(trunk.children())[:-2])
    with torch.no_grad():
        expected = body(images)
        dense = Encoder(trunk, output_stride).eval()(images)[1]
    step = 32 // output_stride
    torch.testing.assert_close(dense[..., ::step, ::step], expected, rtol=1e-9, atol=1e-9)


def test_training_batch_of_one_is_refused_by_batch_norm():
    """The pooling branch has one value a channel and image; two images train."""
    model = deeplabv3plus("resnet18", class_count=2).train()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(torch.zeros(1, 3, 65, 65))
    assert model(torch.zeros(2, 3, 65, 65)).shape == (2, 2, 65, 65)


@pytest.mark.parametrize(("backbone", "output_stride"), [("vgg16", 16), ("resnet50", 32)])
def test_unknown_backbone_or_stride_is_refused(backbone, output_stride):
    """A wrong name is an error, not another network."""
    with pytest.raises(ValueError, match=r"vgg16|32"):
        deeplabv3plus(backbone, output_stride)
