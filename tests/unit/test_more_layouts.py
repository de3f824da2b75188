"""Cityscapes, ADE20K, COCO, class folders, a folder a sample, shards, tables: what is recognised, how it reads."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from loadtune.dataset.detect import Listing, list_dataset
from loadtune.errors import AmbiguousLayoutError, DatasetError, UsageError
from loadtune.records.settings import WorkloadSpec
from loadtune.records.stored import Masks, Rows, Shards
from loadtune.workload.segmentation import SegmentationDataset, ShardDataset
from loadtune.workload.sources import BrokenSampleError, FilePairs, Pictures, TableRows
from loadtune.workload.surveying import survey
from loadtune.workload.target import describe_dataset, prepare_pictures

HEIGHT, WIDTH = 12, 16


def save(path: Path, values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)
    return path


def photo(path: Path) -> Path:
    return save(path, np.full((HEIGHT, WIDTH, 3), 90))


def labels(path: Path, label: int = 1) -> Path:
    values = np.zeros((HEIGHT, WIDTH))
    values[:, WIDTH // 2 :] = label
    return save(path, values)


def coded(path: Path, colour: tuple[int, int, int]) -> Path:
    """A mask of two colours: black, and this one in the right half."""
    values = np.zeros((HEIGHT, WIDTH, 3))
    values[:, WIDTH // 2 :] = colour
    return save(path, values)


def pairs(listing: Listing, root: Path) -> list[tuple[str, str]]:
    assert listing.index is not None
    numbered = (listing.index.pair(number) for number in range(len(listing.index)))
    return [(os.path.relpath(image, root), os.path.relpath(mask, root)) for image, mask in numbered]


def read(listing: Listing, number: int = 0) -> np.ndarray:
    """The mask of a listed sample, as the trial process reads it."""
    assert listing.index is not None
    _, mask = FilePairs(listing.index, listing.masks).read(number)
    return mask[0].numpy()


def reasons(listing: Listing) -> dict[str, int]:
    return {record.reason: record.count for record in listing.left_out}


# Cityscapes


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    """Two cities with the four masks an image, as unpacked from two archives into one folder."""
    for split, city in (("train", "aachen"), ("val", "lindau")):
        stem = f"{city}_000000_000019"
        photo(tmp_path / f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png")
        for kind, label in (("labelIds", 7), ("instanceIds", 26), ("color", 128)):
            labels(tmp_path / f"gtFine/{split}/{city}/{stem}_gtFine_{kind}.png", label)
        (tmp_path / f"gtFine/{split}/{city}/{stem}_gtFine_polygons.json").write_text("{}")
    return tmp_path


def test_cityscapes_takes_the_label_ids_of_the_train_split(cityscapes):
    listing = list_dataset(cityscapes)
    stem = "aachen/aachen_000000_000019"
    assert pairs(listing, cityscapes) == [
        (f"leftImg8bit/train/{stem}_leftImg8bit.png", f"gtFine/train/{stem}_gtFine_labelIds.png")
    ]
    assert (listing.layout, listing.split, listing.left_out) == ("cityscapes", "train", ())
    assert listing.masks.class_count == 34
    assert "labelIds" in listing.described


def test_cityscapes_prefers_the_train_ids_where_they_were_made(cityscapes):
    labels(cityscapes / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelTrainIds.png", 3)
    listing = list_dataset(cityscapes, split="train")
    assert next(mask for _, mask in pairs(listing, cityscapes)).endswith("_labelTrainIds.png")
    assert (listing.masks.class_count, listing.left_out) == (19, ())
    assert set(np.unique(read(listing))) == {0, 3}


def test_cityscapes_archives_may_lie_in_folders_of_their_own(cityscapes):
    for name, archive in (("leftImg8bit", "leftImg8bit_trainvaltest"), ("gtFine", "gtFine_trainvaltest")):
        (cityscapes / archive).mkdir()
        (cityscapes / name).rename(cityscapes / archive / name)
    assert list_dataset(cityscapes, split="all").sample_count == 2


def test_cityscapes_names_its_annotations(cityscapes):
    with pytest.raises(DatasetError):
        list_dataset(cityscapes, "cityscapes:gtCoarse")
    with pytest.raises(UsageError, match="names no annotations"):
        list_dataset(cityscapes, "cityscapes:gtMedium")


# ADE20K


def test_ade20k_benchmark_is_told_from_paired_folders(tmp_path):
    for split in ("training", "validation"):
        photo(tmp_path / f"images/{split}/ADE_train_00000001.jpg")
        labels(tmp_path / f"annotations/{split}/ADE_train_00000001.png", 150)
    listing = list_dataset(tmp_path)
    assert (listing.layout, listing.split, listing.sample_count) == ("ade20k", "training", 1)
    assert listing.masks.class_count == 151


def test_full_ade20k_reads_classes_from_red_and_green(tmp_path):
    """Class 2978 is red 110, green 162; blue is the instance. Parts and objects are passed over in silence."""
    place = tmp_path / "images/ADE/training/urban/street"
    photo(place / "ADE_train_00000001.jpg")
    coded(place / "ADE_train_00000001_seg.png", (110, 162, 77))
    coded(place / "ADE_train_00000001_parts_1.png", (10, 1, 0))
    labels(place / "ADE_train_00000001/instance_000_ADE_train_00000001.png")
    (place / "ADE_train_00000001.json").write_text("{}")
    listing = list_dataset(tmp_path)
    assert (listing.layout, listing.sample_count, listing.left_out) == ("ade20k", 1, ())
    assert set(np.unique(read(listing))) == {0, 2978}


# COCO


def coco(root: Path, annotations: list[dict[str, Any]], name: str = "instances_val2017.json") -> Path:
    for number in (1, 2):
        photo(root / f"val2017/{number:012}.jpg")
    images = [
        {"id": number, "file_name": f"{number:012}.jpg", "height": HEIGHT, "width": WIDTH} for number in (1, 2, 3)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 18, "name": "dog"}, {"id": 3}]}
    path = root / "annotations" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return root


POLYGON = {"image_id": 1, "category_id": 18, "segmentation": [[8, 0, 16, 0, 16, 12, 8, 12]]}
RUNS = {
    "image_id": 1,
    "category_id": 3,
    "segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * 2, HEIGHT * (WIDTH - 2)]},
}


def test_coco_polygons_and_run_lengths_become_classes(tmp_path):
    """Categories 3 and 18 are classes 1 and 2, and 0 is background; what is not there or not annotated is counted."""
    pytest.importorskip("pycocotools")
    listing = list_dataset(coco(tmp_path, [POLYGON, RUNS]))
    assert (listing.layout, listing.sample_count, listing.split) == ("coco", 1, None)
    assert reasons(listing) == {"no mask": 1, "named in the annotations, not there": 1}
    assert listing.masks == Masks(kind="objects", class_count=3)
    mask = read(listing)
    assert (mask[:, :2] == 1).all()
    assert (mask[:, 2:8] == 0).all()
    assert (mask[:, 8:] == 2).all()


def test_coco_panoptic_segments_become_classes(tmp_path):
    """A segment's number is red + 256 green + 65536 blue; what no segment covers is ignored."""
    segments = [{"id": 2 + 256 * 3, "category_id": 18}]
    annotation = {"image_id": 2, "file_name": f"{2:012}.png", "segments_info": segments}
    coco(tmp_path, [annotation], "panoptic_val2017.json")
    coded(tmp_path / f"annotations/panoptic_val2017/{2:012}.png", (2, 3, 0))
    mask = read(list_dataset(tmp_path))
    assert (mask[:, : WIDTH // 2] == 255).all()
    assert (mask[:, WIDTH // 2 :] == 2).all()


def test_instances_come_before_panoptic_unless_asked_for(tmp_path):
    pytest.importorskip("pycocotools")
    coco(tmp_path, [POLYGON])
    coco(tmp_path, [{"image_id": 1, "file_name": "a.png", "segments_info": []}], "panoptic_val2017.json")
    coded(tmp_path / "annotations/panoptic_val2017/a.png", (0, 0, 0))
    assert "instances" in list_dataset(tmp_path).described
    assert "panoptic" in list_dataset(tmp_path, "coco:panoptic").described


@pytest.mark.parametrize("content", ["", "[]", '{"images": 1}', '{"images": []}', "\xff"])
def test_broken_annotations_are_refused(tmp_path, content):
    pytest.importorskip("pycocotools")
    photo(tmp_path / "val2017/1.jpg")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_val2017.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DatasetError, match="annotation file"):
        list_dataset(tmp_path, "coco")


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [5, 5], "counts": [25]},
        {"size": [HEIGHT, WIDTH], "counts": [1]},
        {"size": [HEIGHT, WIDTH], "counts": [-5, HEIGHT * WIDTH + 5]},
        {"counts": [1]},
        [["a", "b", "c", "d", "e", "f"]],
        [[1, 2, 3]],
        7,
    ],
)
def test_hostile_segmentations_break_one_sample_and_no_process(tmp_path, segmentation):
    pytest.importorskip("pycocotools")
    listing = list_dataset(coco(tmp_path, [{**POLYGON, "segmentation": segmentation}, {**POLYGON, "image_id": 2}]))
    source = FilePairs(listing.index, listing.masks)
    found = survey(SegmentationDataset(source, WorkloadSpec(masks=listing.masks)))
    assert found.readable_count == 1
    assert "segmentation" in found.unreadable[0][1]


def test_polygons_beyond_the_image_are_clipped(tmp_path):
    """The C code allocates by the length of the outline."""
    pytest.importorskip("pycocotools")
    far = {**POLYGON, "segmentation": [[8, 0, 1e12, 0, 1e12, 1e12, 8, 1e12]]}
    assert (read(list_dataset(coco(tmp_path, [far])))[:, 8:] == 2).all()


# Class folders


def test_class_folders_fill_the_mask(tmp_path):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            for number in range(2):
                photo(tmp_path / f"{split}/{name}/{number}.jpg")
    for number in range(2):
        photo(tmp_path / f"val/emu/{number}.jpg")
    listing = list_dataset(tmp_path)
    assert (listing.layout, listing.split, listing.sample_count) == ("imagefolder", "train", 4)
    assert "fills its mask" in listing.described
    assert listing.masks == Masks(kind="fill", class_count=3)
    assert [int(read(listing, number).max()) for number in range(4)] == [0, 0, 1, 1]
    assert listing.index is not None
    assert listing.index.files(0) == (str(tmp_path / "train/cat/0.jpg"),)
    assert listing.total_bytes is not None


def test_images_without_masks_are_no_classes(tmp_path):
    """Folders called as images and masks are not two classes, nor is one folder a class."""
    photo(tmp_path / "images/1.jpg")
    photo(tmp_path / "images/2.jpg")
    photo(tmp_path / "labels/3.jpg")
    photo(tmp_path / "labels/4.jpg")
    with pytest.raises(DatasetError, match="no image has a mask"):
        list_dataset(tmp_path)


# A folder a sample


def test_labelme_folders_are_samples(tmp_path):
    for number in range(3):
        photo(tmp_path / f"{number}_json/img.png")
        labels(tmp_path / f"{number}_json/label.png")
        photo(tmp_path / f"{number}_json/label_viz.png")
    photo(tmp_path / "broken_json/img.png")
    listing = list_dataset(tmp_path)
    assert (listing.layout, listing.sample_count) == ("samples", 3)
    assert pairs(listing, tmp_path)[0] == ("0_json/img.png", "0_json/label.png")
    assert reasons(listing) == {"no mask": 1}


def test_objects_in_files_of_their_own_are_united(tmp_path):
    """As the 2018 Data Science Bowl has it: images/ with one file, masks/ with one an object."""
    for name in ("a", "b"):
        photo(tmp_path / f"{name}/images/{name}.png")
        labels(tmp_path / f"{name}/masks/1.png", 255)
        values = np.zeros((HEIGHT, WIDTH))
        values[:2] = 255
        save(tmp_path / f"{name}/masks/2.png", values)
    listing = list_dataset(tmp_path)
    assert (listing.layout, listing.sample_count, listing.masks.kind) == ("samples", 2, "parts")
    mask = read(listing)
    assert (mask[:2] == 1).all()
    assert (mask[2:, : WIDTH // 2] == 0).all()
    assert (mask[2:, WIDTH // 2 :] == 1).all()


def test_split_folders_of_one_pair_are_no_samples(tmp_path):
    for split in ("train", "val"):
        photo(tmp_path / f"{split}/images/1.png")
        labels(tmp_path / f"{split}/masks/1.png")
    assert list_dataset(tmp_path).layout == "paired"


# Colours


def coloured(root: Path) -> Path:
    for name, colour in (("a", (128, 64, 0)), ("b", (0, 0, 200))):
        photo(root / f"images/{name}.jpg")
        coded(root / f"masks/{name}.png", colour)
    return root


def test_colours_become_classes_in_rising_order(tmp_path):
    listing = list_dataset(coloured(tmp_path))
    found = survey(SegmentationDataset(FilePairs(listing.index, listing.masks), WorkloadSpec()))
    assert found.masks == Masks(kind="colours", palette=(0, 200, 0x804000), class_count=3)
    assert (found.readable_count, found.class_count, found.unreadable) == (2, 3, ())
    assert label_set(listing, found.masks, 0) == {0, 2}
    assert label_set(listing, found.masks, 1) == {0, 1}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("class_dict.csv", "name,r,g,b\nroad,128,64,0\nvoid,0,0,0\n"),
        ("label_colors.txt", "128 64 0\tRoad\n0 0 0\tVoid\n"),
        ("masks/labelmap.txt", "# label:color_rgb:parts:actions\nroad:128,64,0::\nvoid:0,0,0::\n"),
    ],
)
def test_a_class_file_gives_colours_their_classes(tmp_path, name, content):
    """Its order counts; a colour that it has not is ignored."""
    (coloured(tmp_path) / name).write_text(content)
    listing = list_dataset(tmp_path)
    found = survey(SegmentationDataset(FilePairs(listing.index, listing.masks), WorkloadSpec()))
    assert found.masks.palette == (0x804000, 0)
    assert label_set(listing, found.masks, 0) == {0, 1}
    assert label_set(listing, found.masks, 1) == {1, 255}


def test_photographs_as_masks_are_no_colours(tmp_path):
    rng = np.random.default_rng(0)
    photo(tmp_path / "images/a.png")
    save(tmp_path / "masks/a.png", rng.integers(0, 256, (64, 64, 3)))
    listing = list_dataset(tmp_path)
    found = survey(SegmentationDataset(FilePairs(listing.index, listing.masks), WorkloadSpec()))
    assert found.readable_count == 0
    assert "colours" in found.unreadable[0][1]


def label_set(listing: Listing, masks: Masks, number: int) -> set[int]:
    """The labels of a sample without augmentation or padding."""
    spec = WorkloadSpec(crop_px=HEIGHT, base_size_px=HEIGHT, augment="none", masks=masks, class_count=3)
    return set(SegmentationDataset(FilePairs(listing.index, masks), spec)[number][1].unique().tolist())


# Pictures handed over


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Image.fromarray(np.full((HEIGHT, WIDTH), 5, np.uint8)), {5}),
        (2, {2}),
        (np.full((HEIGHT, WIDTH), 6, np.int64), {6}),
        (({"bbox": 1}, Image.fromarray(np.full((HEIGHT, WIDTH), 3, np.uint8))), {3}),
    ],
)
def test_targets_of_torchvision_become_masks(target, expected):
    image, mask = Pictures([(Image.new("RGB", (WIDTH, HEIGHT)), target)]).read(0)
    assert image.shape == (3, HEIGHT, WIDTH)
    assert mask.shape == (1, HEIGHT, WIDTH)
    assert set(mask.unique().tolist()) == expected


def test_annotations_of_torchvision_become_masks():
    pytest.importorskip("pycocotools")
    _, mask = Pictures([(Image.new("RGB", (WIDTH, HEIGHT)), [POLYGON])]).read(0)
    assert set(mask.unique().tolist()) == {0, 18}


@pytest.mark.parametrize("target", ["text", {"a": 1}, None, ("text",)])
def test_targets_that_are_no_masks_are_named(target):
    with pytest.raises(BrokenSampleError, match="sample 0"):
        Pictures([(Image.new("RGB", (WIDTH, HEIGHT)), target)]).read(0)


def test_a_torchvision_data_set_without_transforms_is_prepared(tmp_path):
    for name in ("cat", "dog"):
        photo(tmp_path / f"{name}/1.jpg")
    spec = WorkloadSpec(crop_px=HEIGHT, base_size_px=HEIGHT, class_count=2)
    plain = prepare_pictures(describe_dataset(ImageFolder(str(tmp_path)), "it is"), spec)
    assert isinstance(plain.dataset, SegmentationDataset)
    assert plain.dataset[1][0].shape == (3, HEIGHT, HEIGHT)
    assert plain.sample_count == 2
    own = ImageFolder(str(tmp_path), transform=lambda picture: picture)
    assert prepare_pictures(describe_dataset(own, "it is"), spec).dataset is own


# Shards


def shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[bytes, bytes]:
    """An image's bytes, and a mask's."""
    return photo(tmp_path / "made/a.jpg").read_bytes(), labels(tmp_path / "made/a.png", 4).read_bytes()


@pytest.fixture
def shards(tmp_path: Path, files: tuple[bytes, bytes]) -> Path:
    image, mask = files
    root = tmp_path / "shards"
    for number in range(2):
        members = {}
        for sample in range(3):
            members |= {f"{number}{sample}.jpg": image, f"{number}{sample}.mask.png": mask}
        shard(root / f"set-train-{number:06}.tar", {**members, f"{number}0.json": b"{}"})
    shard(root / "set-val-000000.tar", {"9.jpg": image, "9.mask.png": mask})
    return root


def test_shards_are_counted_by_split_and_streamed(shards):
    pytest.importorskip("webdataset")
    listing = list_dataset(shards)
    assert (listing.layout, listing.split, listing.sample_count, listing.index) == ("webdataset", "train", 6, None)
    assert isinstance(listing.stored, Shards)
    assert len(listing.stored.paths) == 2
    spec = WorkloadSpec(crop_px=HEIGHT, base_size_px=HEIGHT, augment="none", masks=listing.masks, class_count=5)
    dataset = ShardDataset(listing.stored, spec)
    samples = list(dataset)
    assert len(samples) == 6
    assert set(samples[0][1].unique().tolist()) == {0, 4}
    assert survey(dataset).class_count == 5


def test_shards_of_classes_fill_the_mask_and_broken_members_are_named(tmp_path, files):
    pytest.importorskip("webdataset")
    members = {"1.jpg": files[0], "1.cls": b"3", "2.jpg": b"broken", "2.cls": b"1", "3.jpg": files[0], "3.cls": b"x"}
    shard(tmp_path / "s/a.tar", members)
    listing = list_dataset(tmp_path / "s")
    assert listing.masks.kind == "fill"
    assert listing.stored is not None
    dataset = ShardDataset(listing.stored, WorkloadSpec(masks=listing.masks))
    assert [int(labels.max()) for _, labels in dataset] in ([3], [255])
    assert len(dataset.take_faults().bad_samples) == 2


@pytest.mark.parametrize("members", [{}, {"1.jpg": b"x"}, {"1.txt": b"x", "1.json": b"{}"}])
def test_shards_without_pairs_are_refused(tmp_path, members):
    pytest.importorskip("webdataset")
    shard(tmp_path / "a.tar", members)
    with pytest.raises(DatasetError, match="no sample has an image and a mask"):
        list_dataset(tmp_path)


def test_a_file_called_tar_is_refused(tmp_path):
    pytest.importorskip("webdataset")
    (tmp_path / "a.tar").write_bytes(b"no tar file" * 200)
    with pytest.raises(DatasetError, match="tar file"):
        list_dataset(tmp_path)


# Tables


def table(files: tuple[bytes, bytes], **mask: Any) -> Any:
    datasets = pytest.importorskip("datasets")
    image, label = files
    cells = {
        "image": [{"bytes": image, "path": None}] * 3,
        **(mask or {"annotation": [{"bytes": label, "path": None}] * 3}),
    }
    made = datasets.Dataset.from_dict(cells).cast_column("image", datasets.Image())
    return made if mask else made.cast_column("annotation", datasets.Image())


def test_a_saved_table_is_read(tmp_path, files):
    table(files).save_to_disk(str(tmp_path / "saved"))
    listing = list_dataset(tmp_path / "saved")
    assert (listing.layout, listing.sample_count, listing.index) == ("huggingface", 3, None)
    assert isinstance(listing.stored, Rows)
    assert (listing.stored.image_column, listing.stored.mask_column) == ("image", "annotation")
    image, mask = TableRows(listing.stored, listing.masks).read(2)
    assert image.shape == (3, HEIGHT, WIDTH)
    assert set(mask.unique().tolist()) == {0, 4}


def test_saved_splits_are_chosen(tmp_path, files):
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict({"train": table(files), "test": table(files)}).save_to_disk(str(tmp_path / "saved"))
    listing = list_dataset(tmp_path / "saved")
    assert (listing.split, listing.sample_count) == ("train", 3)
    with pytest.raises(DatasetError, match="one at a time"):
        list_dataset(tmp_path / "saved", split="all")


def test_parquet_files_are_read(tmp_path, files, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    root = tmp_path / "set/data"
    root.mkdir(parents=True)
    table(files).to_parquet(str(root / "train-00000-of-00001.parquet"))
    listing = list_dataset(root.parent)
    assert (listing.layout, listing.split, listing.sample_count) == ("huggingface", "train", 3)
    assert isinstance(listing.stored, Rows)
    assert listing.stored.format == "parquet"


def test_a_class_column_fills_the_mask(tmp_path, files):
    datasets = pytest.importorskip("datasets")
    made = table(files, label=[0, 1, 1]).cast_column("label", datasets.ClassLabel(names=["cat", "dog"]))
    made.save_to_disk(str(tmp_path / "saved"))
    listing = list_dataset(tmp_path / "saved")
    assert listing.masks.kind == "fill"
    assert isinstance(listing.stored, Rows)
    assert TableRows(listing.stored, listing.masks).read(1)[1].unique().tolist() == [1]


def test_tables_without_masks_are_refused(tmp_path, files):
    table(files, caption=["a", "b", "c"]).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DatasetError, match="no image column with a mask column"):
        list_dataset(tmp_path / "saved")


# Missing packages


@pytest.mark.parametrize(
    ("package", "extra"), [("pycocotools", "coco"), ("webdataset", "webdataset"), ("datasets", "huggingface")]
)
def test_a_missing_package_is_named_before_anything_is_read(tmp_path, package, extra, monkeypatch):
    if package == "pycocotools":
        coco(tmp_path, [POLYGON])
    elif package == "webdataset":
        shard(tmp_path / "a.tar", {"1.jpg": b"", "1.mask.png": b""})
    else:
        (tmp_path / "state.json").write_text("{}")
        (tmp_path / "dataset_info.json").write_text("{}")
    module = {"pycocotools": "coco", "webdataset": "webdataset", "datasets": "huggingface"}[package]
    monkeypatch.setattr(f"loadtune.dataset.layouts.{module}.find_spec", lambda name: None)
    with pytest.raises(DatasetError, match=f"need {package}") as refused:
        list_dataset(tmp_path)
    assert f"[{extra}]" in refused.value.hint


def test_two_layouts_of_other_images_have_to_be_told_apart(tmp_path, cityscapes):
    photo(cityscapes / "images/1.jpg")
    labels(cityscapes / "masks/1.png")
    with pytest.raises(AmbiguousLayoutError, match="2 ways"):
        list_dataset(cityscapes)


# Beside each other


def test_a_stray_archive_or_table_does_not_hide_a_data_set(tmp_path, files):
    """What was unpacked counts, whatever lies beside it, and whether or not that could be read."""
    photo(tmp_path / "images/a.jpg")
    labels(tmp_path / "masks/a.png")
    shard(tmp_path / "images.tar", {"1.jpg": files[0], "1.mask.png": files[1]})
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1 and nothing else")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train.json").write_text("{}")
    listing = list_dataset(tmp_path)
    assert (listing.layout, listing.sample_count) == ("paired", 1)


def test_images_and_masks_under_unknown_names_are_no_classes(tmp_path):
    for number in range(3):
        photo(tmp_path / f"DUTS-TR-Image/{number}.jpg")
        labels(tmp_path / f"DUTS-TR-Mask/{number}.png")
    with pytest.raises(DatasetError, match="fits no known layout"):
        list_dataset(tmp_path)


def test_the_files_of_a_mask_of_parts_are_known(tmp_path):
    """They are read into the page cache, dropped from it, and counted."""
    for name in ("a", "b"):
        photo(tmp_path / f"{name}/images/{name}.png")
        labels(tmp_path / f"{name}/masks/1.png", 255)
        labels(tmp_path / f"{name}/masks/2.png", 255)
    listing = list_dataset(tmp_path)
    assert listing.index is not None
    expected = [f"{tmp_path}/a/images/a.png", f"{tmp_path}/a/masks/1.png", f"{tmp_path}/a/masks/2.png"]
    assert list(listing.index.files(0)) == expected


def test_an_empty_mask_among_colours_does_not_hide_them(tmp_path):
    """Black alone reads as labels."""
    coloured(tmp_path)
    for name in ("c", "d"):
        photo(tmp_path / f"images/{name}.jpg")
    coded(tmp_path / "masks/c.png", (128, 64, 0))
    coded(tmp_path / "masks/d.png", (0, 0, 0))
    listing = list_dataset(tmp_path)
    found = survey(SegmentationDataset(FilePairs(listing.index, listing.masks), WorkloadSpec()))
    assert (found.masks.kind, found.readable_count, found.unreadable) == ("colours", 4, ())


def test_picture_masks_come_before_classes_and_plain_images_before_others(tmp_path, files):
    pytest.importorskip("webdataset")
    image, mask = files
    members = {"1.jpg": image, "1.depth.png": mask, "1.mask.png": mask, "1.cls": b"1", "._1.jpg": b"a Mac's own"}
    shard(tmp_path / "a.tar", members)
    stored = list_dataset(tmp_path).stored
    assert isinstance(stored, Shards)
    assert (stored.image_extensions[0], stored.mask_extensions[0]) == ("jpg", "mask.png")


def test_compressed_run_lengths_are_checked_before_they_are_drawn(tmp_path):
    coco_masks = pytest.importorskip("pycocotools.mask")
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    drawn[2:9, 3:11] = 1
    counts = coco_masks.encode(drawn)["counts"].decode()
    good = {**POLYGON, "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}}
    assert ((read(list_dataset(coco(tmp_path / "good", [good]))) == 2) == drawn.astype(bool)).all()
    for number, broken in enumerate((counts[:-1], counts + counts, "\x7f", "")):
        bad = {**POLYGON, "segmentation": {"size": [HEIGHT, WIDTH], "counts": broken}}
        listing = list_dataset(coco(tmp_path / str(number), [bad]))
        with pytest.raises(BrokenSampleError, match="run lengths"):
            FilePairs(listing.index, listing.masks).read(0)


def test_images_of_one_name_in_several_folders_are_told_apart(tmp_path):
    pytest.importorskip("pycocotools")
    for camera in ("one", "two"):
        photo(tmp_path / f"images/{camera}/1.jpg")
    images = [{"id": number, "file_name": f"{name}/1.jpg"} for number, name in ((1, "one"), (2, "two"))]
    annotations = [POLYGON, {**RUNS, "image_id": 2}]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 18}, {"id": 3}]}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train.json").write_text(json.dumps(content))
    listing = list_dataset(tmp_path)
    assert [image for image, _ in pairs(listing, tmp_path)] == ["images/one/1.jpg", "images/two/1.jpg"]
    assert set(np.unique(read(listing, 0))) == {0, 2}
    assert set(np.unique(read(listing, 1))) == {0, 1}


def test_a_subclass_of_the_users_own_is_left_as_it_is(tmp_path):
    """It may return tensors, or do its own augmentation."""

    class Mine(ImageFolder):
        pass

    photo(tmp_path / "cat/1.jpg")
    own = Mine(str(tmp_path))
    assert prepare_pictures(describe_dataset(own, "it is"), WorkloadSpec()).dataset is own
