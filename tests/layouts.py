"""The demo's photographs in every layout: what the tests of the whole way from folder to trial run on."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NUCLEI = Path(__file__).resolve().parents[1] / "demo" / "nuclei"
SAMPLES = 8


def photographs() -> list[tuple[Image.Image, np.ndarray]]:
    """A few small photographs, and for each where its nuclei are, as 0 and 1."""
    found = []
    for path in sorted((NUCLEI / "images").iterdir())[:SAMPLES]:
        with Image.open(path) as image, Image.open(NUCLEI / "masks" / f"{path.stem}_mask.png") as mask:
            found.append(
                (image.convert("RGB").resize((96, 64)), (np.asarray(mask.resize((96, 64))) > 0).astype(np.uint8))
            )
    return found


def _save(path: Path, picture: Any, scale: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture * np.uint8(scale))).save(path)


def _bytes(picture: Any, kind: str) -> bytes:
    stream = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(stream, kind)
    return stream.getvalue()


def cityscapes(root: Path) -> None:
    for number, (image, mask) in enumerate(photographs()):
        stem = f"aachen/aachen_{number:06}_000019"
        _save(root / f"leftImg8bit/train/{stem}_leftImg8bit.png", image)
        _save(root / f"gtFine/train/{stem}_gtFine_labelIds.png", mask)
        _save(root / f"gtFine/train/{stem}_gtFine_color.png", np.stack([mask] * 3, axis=-1), 128)


def ade20k(root: Path) -> None:
    for number, (image, mask) in enumerate(photographs()):
        _save(root / f"images/training/ADE_train_{number:08}.jpg", image)
        _save(root / f"annotations/training/ADE_train_{number:08}.png", mask)


def coco(root: Path) -> None:
    pytest.importorskip("pycocotools")
    images, annotations = [], []
    for number, (image, mask) in enumerate(photographs(), start=1):
        _save(root / f"val2017/{number:012}.jpg", image)
        images.append({"id": number, "file_name": f"{number:012}.jpg"})
        flat = np.concatenate([[0], mask.T.ravel(), [1 - mask[-1, -1]]])
        edges = np.flatnonzero(np.diff(flat))
        counts = np.diff([0, *edges]).tolist()
        counts[-1] += mask.size - sum(counts)
        runs = {"size": list(mask.shape), "counts": counts}
        annotations.append({"image_id": number, "category_id": 7, "segmentation": runs, "iscrowd": 1})
        corners = [[10, 10, 40, 10, 40, 30, 10, 30]]
        annotations.append({"image_id": number, "category_id": 9, "segmentation": corners, "iscrowd": 0})
    (root / "annotations").mkdir()
    content = {"images": images, "annotations": annotations, "categories": [{"id": 7}, {"id": 9}]}
    (root / "annotations/instances_val2017.json").write_text(json.dumps(content))


def class_folders(root: Path) -> None:
    for number, (image, _) in enumerate(photographs()):
        _save(root / f"train/{('cat', 'dog')[number % 2]}/{number}.jpg", image)


def sample_folders(root: Path) -> None:
    for number, (image, mask) in enumerate(photographs()):
        _save(root / f"{number}/images/{number}.png", image)
        for part in range(2):
            half = mask.copy()
            half[:, part * 48 : part * 48 + 48] = 0
            _save(root / f"{number}/masks/{part}.png", half, 255)


def colour_coded(root: Path) -> None:
    for number, (image, mask) in enumerate(photographs()):
        _save(root / f"images/{number}.jpg", image)
        _save(root / f"masks/{number}.png", np.stack([mask, mask * 0, mask], axis=-1), 128)


def shards(root: Path) -> None:
    pytest.importorskip("webdataset")
    root.mkdir(exist_ok=True)
    for shard in range(2):
        with tarfile.open(root / f"nuclei-train-{shard:06}.tar", "w") as archive:
            for number, (image, mask) in enumerate(photographs()):
                for name, content in (
                    (f"{number}.jpg", _bytes(image, "JPEG")),
                    (f"{number}.mask.png", _bytes(mask, "PNG")),
                ):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))


def _table() -> Any:
    datasets = pytest.importorskip("datasets")
    cells = [(_bytes(image, "JPEG"), _bytes(mask, "PNG")) for image, mask in photographs()]
    made = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": image, "path": None} for image, _ in cells],
            "mask": [{"bytes": mask, "path": None} for _, mask in cells],
        }
    )
    return made.cast_column("image", datasets.Image()).cast_column("mask", datasets.Image())


def arrow(root: Path) -> None:
    _table().save_to_disk(str(root))


def parquet(root: Path) -> None:
    root.mkdir(exist_ok=True)
    _table().to_parquet(str(root / "train-00000-of-00001.parquet"))


MAKERS: dict[str, tuple[Callable[[Path], None], str, int]] = {
    "cityscapes": (cityscapes, "cityscapes", 34),
    "ade20k": (ade20k, "ade20k", 151),
    "coco": (coco, "coco", 3),
    "class folders": (class_folders, "imagefolder", 2),
    "a folder a sample": (sample_folders, "samples", 2),
    "colours": (colour_coded, "paired", 2),
    "shards": (shards, "webdataset", 2),
    "arrow": (arrow, "huggingface", 2),
    "parquet": (parquet, "huggingface", 2),
}
"""What makes it, the layout that recognises it, and its classes."""
