"""Pairs of files to training samples: decoding, alignment, labels, broken files, and the survey."""

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from loadtune.errors import TooManyBadSamplesError
from loadtune.records.settings import WorkloadSpec
from loadtune.workload import decode
from loadtune.workload.decode import BrokenFileError, read_image, read_mask
from loadtune.workload.segmentation import Faults, SegmentationDataset, map_labels
from loadtune.workload.sources import FilePairs
from loadtune.workload.surveying import Survey, survey
from loadtune.workload.transform import IMAGENET_MEAN, IMAGENET_STD, Cut, apply_cut, draw_cut

LABELS = (0, 5, 10, 20)


@dataclass
class Pairs:
    """An index as the data set room hands it over."""

    pairs: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.pairs)

    def pair(self, number: int) -> tuple[str, str]:
        return self.pairs[number]

    def files(self, number: int) -> tuple[str, ...]:
        return self.pairs[number]


def prepared(pairs: Pairs, spec: WorkloadSpec) -> SegmentationDataset:
    return SegmentationDataset(FilePairs(pairs, spec.masks), spec)


def surveyed(pairs: Pairs, **limits: Any) -> Survey:
    return survey(prepared(pairs, spec()), **limits)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def spec(**changes: Any) -> WorkloadSpec:
    return WorkloadSpec(**{"crop_px": 33, "base_size_px": 33, **changes})


def save(path: Path, values: np.ndarray, **options: Any) -> str:
    Image.fromarray(values).save(path, **options)
    return str(path)


def quarters(height: int = 48, width: int = 64) -> np.ndarray:
    """A mask whose quarters carry LABELS."""
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 2, width // 2 :] = LABELS[1]
    mask[height // 2 :, : width // 2] = LABELS[2]
    mask[height // 2 :, width // 2 :] = LABELS[3]
    return mask


def save_pair(folder: Path, number: int, mask: np.ndarray | None = None) -> tuple[str, str]:
    """Write an image whose grey values are ten times the labels of its mask."""
    mask = quarters() if mask is None else mask
    image = np.repeat((mask * np.uint8(10))[..., None], 3, axis=2)
    return save(folder / f"{number}.png", image), save(folder / f"{number}_mask.png", mask)


@pytest.fixture
def good_pairs(tmp_path):
    return Pairs([save_pair(tmp_path, number) for number in range(4)])


# Decoding


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tiff", "avif"])
def test_image_formats_are_read_as_rgb(tmp_path, suffix):
    """Formats that torchvision cannot read go to Pillow and come back alike."""
    grey = np.full((10, 14, 3), 100, np.uint8)
    image = read_image(save(tmp_path / f"image.{suffix}", grey))
    assert (image.dtype, tuple(image.shape)) == (torch.uint8, (3, 10, 14))
    assert (image.to(torch.int32) - 100).abs().max() <= 3


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_image_keeps_its_upper_bits(tmp_path, suffix):
    """Clipping at 255, as Pillow's own conversion does, would leave a white image."""
    image = read_image(save(tmp_path / f"deep.{suffix}", np.full((4, 6), 0x8040, np.uint16)))
    assert (image.dtype, tuple(image.shape), image.unique().tolist()) == (torch.uint8, (3, 4, 6), [0x80])


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff"])
def test_palette_indices_survive(tmp_path, suffix):
    """The palette's colours are for people; the indices are the labels."""
    image = Image.fromarray(quarters())
    image = image.convert("P")
    image.putpalette([value for index in range(256) for value in (255 - index, index // 2, 7)])
    path = tmp_path / f"mask.{suffix}"
    image.save(path)
    expected = np.asarray(image)
    assert np.array_equal(read_mask(path)[0].numpy(), expected)
    assert tuple(np.unique(expected)) == LABELS


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_1_bit_mask_is_0_and_255(tmp_path, suffix):
    """Both decoders agree, so the mask is binary whatever wrote it."""
    assert read_mask(save(tmp_path / f"mask.{suffix}", quarters() > 7)).unique().tolist() == [0, 255]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_mask_keeps_its_values(tmp_path, suffix):
    """Labels above 255 are labels."""
    mask = read_mask(save(tmp_path / f"mask.{suffix}", np.array([[0, 300], [7, 65535]], np.uint16)))
    assert mask.tolist() == [[[0, 300], [7, 65535]]]


def test_grey_mask_stored_as_rgba_is_read_and_colours_are_refused(tmp_path):
    """Equal channels are one channel with copies; differing ones are no labels."""
    rgba = np.stack([quarters()] * 3 + [np.full_like(quarters(), 255)], axis=2)
    assert np.array_equal(read_mask(save(tmp_path / "rgba.png", rgba))[0].numpy(), quarters())
    rgba[0, 0, 1] = 9
    with pytest.raises(BrokenFileError, match="colours, not labels"):
        read_mask(save(tmp_path / "colours.png", rgba))


def test_exif_orientation_is_not_applied(tmp_path):
    """The mask carries no orientation, so turning the image would part the two."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "turned.jpg", np.zeros((10, 20, 3), np.uint8), exif=exif)
    assert read_image(path).shape == (3, 10, 20)


def test_fifo_device_and_folder_are_never_opened(tmp_path, monkeypatch):
    """Opening a FIFO waits for a writer for ever, and /dev/zero has no end."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("/dev/zero")
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("it was opened"))
    for path in (tmp_path / "pipe.png", tmp_path / "link.png", tmp_path):
        with pytest.raises(BrokenFileError, match="not a regular file"):
            read_image(path)


def test_file_over_the_limit_is_not_read(tmp_path, monkeypatch):
    """The size decides before a byte is read."""
    path = save(tmp_path / "image.png", quarters())
    monkeypatch.setattr(decode, "FILE_LIMIT_BYTES", 10)
    with pytest.raises(BrokenFileError, match="over the limit of 10"):
        read_image(path)


# Transform


@pytest.mark.parametrize("augment", ["deeplab", "none"])
@pytest.mark.parametrize("crop_px", [17, 33, 90])
def test_samples_have_the_crops_size_and_type(good_pairs, augment, crop_px):
    """Also where the crop is larger than the scaled image."""
    dataset = prepared(good_pairs, spec(crop_px=crop_px, augment=augment))
    for number in range(4):
        image, labels = dataset[number]
        assert (image.dtype, tuple(image.shape)) == (torch.float32, (3, crop_px, crop_px))
        assert (labels.dtype, tuple(labels.shape)) == (torch.int64, (crop_px, crop_px))
        assert set(labels.unique().tolist()) <= {*LABELS, 255}


def test_image_and_mask_stay_aligned(good_pairs):
    """The image's grey values encode its mask: off the edges, which bilinear blurs, they always agree."""
    dataset = prepared(good_pairs, spec(crop_px=65, base_size_px=65))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    for draw in range(40):
        image, labels = dataset[draw % 4]
        decoded = (image * std + mean)[0] * 255 / 10
        around = labels[None].float()
        highest, lowest = (sign * nn.functional.max_pool2d(sign * around, 9, 1, 4)[0] for sign in (1, -1))
        is_inside = (highest == lowest) & (labels != 255)
        assert is_inside.float().mean() > 0.1
        assert ((decoded - labels).abs() < 0.2)[is_inside].all()


def test_mask_edge_lies_where_the_image_edge_does():
    """Plain nearest samples an output pixel's corner, bilinear its centre: half a pixel apart."""
    mask = torch.zeros(1, 64, 64, dtype=torch.uint8)
    mask[..., 33:] = 1
    for side in (16, 100, 128):
        image, resized = apply_cut(mask.expand(3, -1, -1) * 200, mask, Cut(0, 0, 64, 64, side, side, False))
        assert torch.equal(image[:1] > 100, resized > 0)


def test_same_seed_gives_the_same_sample(good_pairs):
    """All draws come from torch's global generator, which DataLoader seeds in each worker."""
    dataset = prepared(good_pairs, spec())
    samples = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        samples.append(dataset[0][0])
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])


def test_scale_is_drawn_from_half_to_twice_the_base_size():
    """The short side of a large photograph becomes U(0.5, 2) times the base: the region tells the scale."""
    wanted = spec(crop_px=100, base_size_px=400)
    scales = []
    for _ in range(300):
        cut = draw_cut(4000, 6000, wanted)
        scales.append(cut.resized_height / cut.height * 4000 / 400)
    assert 0.49 < min(scales) < 0.6
    assert 1.9 < max(scales) < 2.02
    assert sum(scales) / len(scales) == pytest.approx(1.25, abs=0.1)


def test_only_the_crops_source_is_resized():
    """A photograph is never resized whole: the region is what the crop covers, and a pixel at most."""
    wanted = spec(crop_px=100, base_size_px=400)
    for _ in range(100):
        cut = draw_cut(4000, 6000, wanted)
        assert cut.height <= 100 * 4000 / 200 + 2
        assert 0 <= cut.top <= 4000 - cut.height
        assert 0 <= cut.left <= 6000 - cut.width


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3000), (3000, 2)])
def test_extreme_shapes_become_samples(tmp_path, height, width):
    """A strip of one pixel would be resized to millions if it were resized whole."""
    index = Pairs([save_pair(tmp_path, 0, np.zeros((height, width), np.uint8))])
    image, labels = prepared(index, spec())[0]
    assert (tuple(image.shape), tuple(labels.shape)) == ((3, 33, 33), (33, 33))


def test_flips_are_about_half():
    """None of them, or all, would be no augmentation."""
    flips = sum(draw_cut(40, 40, spec()).is_flipped for _ in range(400))
    assert 140 < flips < 260


def test_without_augmentation_the_centre_is_taken_and_nothing_drawn():
    """The short side becomes the base size, the crop lies in the middle, and the generator is not touched."""
    before = torch.random.get_rng_state()
    cut = draw_cut(100, 300, spec(crop_px=50, base_size_px=50, augment="none"))
    assert cut == Cut(0, 100, 100, 100, 50, 50, False)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_padding_is_the_mean_and_ignore(tmp_path):
    """DeepLab pads with the mean pixel, which is 0 after normalising; the loss leaves it out."""
    index = Pairs([save_pair(tmp_path, 0, np.full((20, 20), 7, np.uint8))])
    image, labels = prepared(index, spec(crop_px=40, base_size_px=20, augment="none"))[0]
    assert (labels[:20, :20] == 7).all()
    for padding, filled in (
        (labels[20:], 255),
        (labels[:, 20:], 255),
        (image[:, 20:], 0),
        (image[..., 20:], 0),
    ):
        assert (padding == filled).all()
    assert (image[:, :20, :20] != 0).all()


# Labels


def test_labels_outside_the_classes_become_ignore_and_are_counted():
    """255 was ignore before, so it is not counted."""
    labels, ignored = map_labels(torch.tensor([[0, 1, 2, 3, 254, 255]], dtype=torch.uint8), spec(class_count=3))
    assert (labels.tolist(), ignored, labels.dtype) == ([[0, 1, 2, 255, 255, 255]], 2, torch.int64)


def test_wide_and_negative_labels_become_ignore():
    """int32 masks hold both."""
    labels, ignored = map_labels(torch.tensor([[-1, 300, 20]], dtype=torch.int32), spec())
    assert (labels.tolist(), ignored) == ([[255, 255, 20]], 2)


def test_label_255_is_ignore_even_among_more_classes():
    """With 300 classes 255 still means ignore, as the loss takes it."""
    labels, ignored = map_labels(torch.tensor([[255, 299]], dtype=torch.int32), spec(class_count=300))
    assert (labels.tolist(), ignored) == ([[255, 299]], 0)


def test_binary_masks_255_is_class_1():
    """Its two values are two classes; nothing is ignored."""
    mask = torch.tensor([[0, 255, 254]], dtype=torch.uint8)
    labels, ignored = map_labels(mask, spec(class_count=2, is_binary_mask=True))
    assert (labels.tolist(), ignored) == ([[0, 1, 1]], 0)


# Broken samples


def break_truncated(image: Path, mask: Path) -> None:
    image.write_bytes(image.read_bytes()[:-40])


def break_empty(image: Path, mask: Path) -> None:
    mask.write_bytes(b"")


def break_size(image: Path, mask: Path) -> None:
    save(mask, quarters(48, 66))


def break_missing(image: Path, mask: Path) -> None:
    mask.unlink()


def break_text(image: Path, mask: Path) -> None:
    image.write_text("<html>404</html>")


def break_fifo(image: Path, mask: Path) -> None:
    image.unlink()
    os.mkfifo(image)


@pytest.mark.parametrize(
    ("break_pair", "name", "reason"),
    [
        (break_truncated, "1.png", "truncated"),
        (break_empty, "1_mask.png", "empty file"),
        (break_size, "1.png", "64x48 pixels, its mask 66x48"),
        (break_missing, "1_mask.png", "No such file or directory"),
        (break_text, "1.png", "not an image"),
        (break_fifo, "1.png", "not a regular file"),
    ],
)
def test_broken_sample_is_named_and_replaced_by_the_next(good_pairs, break_pair, name, reason):
    """The batch keeps its size, and the fault is told once."""
    break_pair(*(Path(path) for path in good_pairs.pairs[1]))
    dataset = prepared(good_pairs, spec(augment="none"))
    replaced = dataset[1]
    faults = dataset.take_faults()
    assert torch.equal(replaced[0], dataset[2][0])
    ((path, why),) = faults.bad_samples
    assert Path(path).name == name
    assert reason in why
    assert dataset.take_faults().bad_samples == ()


def test_last_sample_is_replaced_by_the_first(good_pairs):
    """The search for a good neighbour goes round."""
    Path(good_pairs.pairs[3][0]).unlink()
    assert prepared(good_pairs, spec())[3][0].shape == (3, 33, 33)


def test_only_broken_samples_end_with_an_error(good_pairs):
    """The number of attempts is bounded, and the last fault is named."""
    for image, _ in good_pairs.pairs:
        Path(image).write_bytes(b"")
    dataset = prepared(good_pairs, spec())
    with pytest.raises(TooManyBadSamplesError, match=r"4 samples in a row .*1\.png: empty file"):
        dataset[2]
    assert len(dataset.take_faults().bad_samples) == 4


def test_faults_are_drained_and_count_pixels(tmp_path):
    """Padding is no pixel of the mask; half of this one is outside two classes."""
    mask = np.zeros((20, 20), np.uint8)
    mask[10:] = 9
    index = Pairs([save_pair(tmp_path, 0, mask)])
    dataset = prepared(index, spec(crop_px=40, base_size_px=20, augment="none", class_count=2))
    dataset[0]
    faults = dataset.take_faults()
    assert faults == Faults((), pixels_seen=400, pixels_ignored=200)
    assert pickle.loads(pickle.dumps(faults)) == faults  # noqa: S301 - our own bytes
    assert dataset.take_faults() == Faults()


def test_name_that_is_no_utf8_is_told_as_text(tmp_path):
    """JSON cannot hold a lone surrogate."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    dataset = prepared(Pairs([(path, path), save_pair(tmp_path, 1)]), spec())
    dataset[0]
    ((name, _),) = dataset.take_faults().bad_samples
    assert Path(name).name == "caf\N{REPLACEMENT CHARACTER}.png"
    assert name.encode()


def test_workers_deliver_the_batches(good_pairs):
    """The data set travels to a worker, and its draws differ from sample to sample."""
    loader = DataLoader(prepared(Pairs(good_pairs.pairs[:1] * 4), spec()), batch_size=4, num_workers=1)
    (batch,) = loader
    images, labels = batch
    assert (tuple(images.shape), tuple(labels.shape)) == ((4, 3, 33, 33), (4, 33, 33))
    assert not torch.equal(images[0], images[1])


# Survey


def test_survey_finds_the_classes_and_sizes(tmp_path):
    """The largest label but 255 makes the classes; sizes are medians."""
    with_void = quarters(40, 80)
    with_void[0] = 255
    index = Pairs([save_pair(tmp_path, 0), save_pair(tmp_path, 1, with_void), save_pair(tmp_path, 2)])
    found = surveyed(index)
    assert (found.class_count, found.is_binary_mask, found.readable_count) == (21, False, 3)
    assert (found.width_px, found.height_px, found.unreadable) == (64, 48, ())
    expected_bytes = sum(Path(path).stat().st_size for pair in index.pairs for path in pair) / 3
    assert found.mean_pair_bytes == pytest.approx(expected_bytes)


@pytest.mark.parametrize(
    ("values", "class_count", "is_binary"),
    [([0, 255], 2, True), ([255], 2, True), ([0], 2, False), ([0, 1, 255], 2, False), ([0, 4], 5, False)],
)
def test_survey_tells_binary_masks_from_ignore(tmp_path, values, class_count, is_binary):
    """255 is a class only where there is nothing else but 0."""
    found = surveyed(Pairs([save_pair(tmp_path, 0, np.resize(np.array(values, np.uint8), (6, 6)))]))
    assert (found.class_count, found.is_binary_mask) == (class_count, is_binary)


def test_survey_counts_and_names_what_it_cannot_read(good_pairs):
    """The others still tell the classes."""
    Path(good_pairs.pairs[2][1]).write_bytes(b"")
    found = surveyed(good_pairs)
    assert (found.readable_count, found.class_count) == (3, 21)
    assert found.unreadable == ((good_pairs.pairs[2][1], "empty file"),)


def test_survey_of_nothing_readable_knows_nothing(good_pairs):
    """Unknown is None, not 0."""
    for _, mask in good_pairs.pairs:
        Path(mask).unlink()
    found = surveyed(good_pairs)
    known = (found.class_count, found.width_px, found.height_px, found.mean_pair_bytes, found.readable_count)
    assert known == (None, None, None, None, 0)


def test_survey_looks_at_an_even_spread(good_pairs):
    """Eight of eighty are every tenth, whatever their order."""

    class Recording(Pairs):
        def pair(self, number: int) -> tuple[str, str]:
            asked.add(number)
            return super().pair(number)

    asked: set[int] = set()
    surveyed(Recording(good_pairs.pairs * 20), limit=8)
    assert sorted(asked) == list(range(0, 80, 10))


def test_survey_stops_at_its_time_limit(good_pairs):
    """One pair is read in any case."""
    assert surveyed(good_pairs, limit_s=0.0).readable_count == 1
