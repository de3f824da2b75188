"""Is it a Hugging Face data set on disk? A saved one (arrow) or parquet files, with image and mask columns.

The columns are found by their types in the files' own words; nothing is imported but pyarrow, for parquet.
"""

import re
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from loadtune.dataset.candidate import Candidate, Collected, MadeCandidate, Search
from loadtune.dataset.layouts.paired import IMAGE_FOLDERS, MASK_FOLDERS
from loadtune.dataset.leftout import join, printable
from loadtune.dataset.lists import SPLITS
from loadtune.dataset.tree import Tree
from loadtune.errors import DatasetError, UsageError
from loadtune.records.stored import Masks, Rows

PARQUET_MAX_BYTES = 2**30
"""More would take longer to convert than a budget lasts, and fill the user's home."""
INFO_LIMIT_BYTES = 2**26
"""Largest dataset_info.json that is read; a real one has kilobytes."""

_PARQUET = re.compile(rb"(?i)\.parquet$")
_SPLIT = re.compile(rf"(?i)^({'|'.join(SPLITS)})(?:[-_.]|$)".encode())


class _Part(NamedTuple):
    """One split."""

    format: str
    folder: bytes
    files: tuple[bytes, ...]
    """Parquet files, or what a saved data set consists of."""


class HuggingFace:
    """What `datasets` writes: `save_to_disk`, `to_parquet`, or a download of a repository."""

    name = "huggingface"
    looked_for = "state.json with dataset_info.json, dataset_dict.json, or parquet files"

    def find(self, tree: Tree, search: Search, folders: tuple[str, ...]) -> list[Candidate]:
        """Return the tables at the top, in data/, or one folder a split.

        Raises:
            UsageError: Folders were given.
        """
        if folders:
            raise UsageError("--layout huggingface takes no folder names", "give the folder that was saved")
        if search is Search.ANYWHERE:
            return []
        # A table beside images and masks mostly describes them: it is looked at where nothing else was found.
        wanted = "arrow" if search is Search.USUAL else "parquet"
        parts = {split: part for split, part in _parts(tree) if part.format == wanted}
        if not parts:
            return []
        return [
            MadeCandidate(
                layout=self.name,
                chosen_by=f"--layout {self.name}",
                folders=frozenset(part.folder for part in parts.values()),
                splits=tuple(sorted(filter(None, parts))),
                collect=partial(_collect, tree, parts),
            )
        ]


def _parts(tree: Tree) -> Iterator[tuple[str, _Part]]:
    root = tree.folder(b"")
    if _is_saved(root.files):
        yield "", _saved(tree, b"")
    if b"dataset_dict.json" in root.files:
        for name in root.folders:
            if _is_saved(tree.folder(name).files):
                yield name.decode("utf-8", "replace"), _saved(tree, name)
    for place in (b"", b"data"):
        found: dict[str, list[bytes]] = {}
        for name in sorted(tree.folder(place).files):
            if _PARQUET.search(name):
                said = _SPLIT.match(name)
                found.setdefault(said[1].decode().lower() if said else "", []).append(join(place, name))
        yield from ((split, _Part("parquet", place, tuple(files))) for split, files in found.items())


def _is_saved(files: list[bytes]) -> bool:
    return {b"state.json", b"dataset_info.json"} <= set(files)


def _saved(tree: Tree, folder: bytes) -> _Part:
    return _Part("arrow", folder, tuple(join(folder, name) for name in sorted(tree.folder(folder).files)))


def _collect(tree: Tree, parts: dict[str, _Part], split: str | None) -> Collected:
    """Find the columns of a split. Without one, several tables are one only if they are parquet.

    Raises:
        DatasetError: The package is missing, or the tables have no image and mask.
    """
    if find_spec("datasets") is None:
        raise DatasetError(
            "tables of a Hugging Face data set need datasets, which is not installed",
            "install it: pip install 'loadtune-probe[huggingface]'",
        )
    used = [part for own, part in parts.items() if split in {None, own}]
    if len(used) > 1 and used[0].format == "arrow":
        raise DatasetError("saved splits are read one at a time", f"--split takes one of: {', '.join(sorted(parts))}")
    first = used[0]
    features, count = _describe(tree, first) if first.format == "arrow" else _describe_parquet(tree, used)
    image, mask, is_fill = _columns(features)
    files = [file for part in used for file in part.files]
    try:
        texts = [(tree.root + b"/" + file).decode("utf-8") for file in files]
    except UnicodeDecodeError as error:
        raise DatasetError(f"the path of {printable(files[0])} is not UTF-8", "rename the folder") from error
    total_bytes = sum(Path(text).stat().st_size for text in texts)
    if first.format == "parquet" and total_bytes > PARQUET_MAX_BYTES:
        raise DatasetError(
            f"{total_bytes} bytes of parquet would be converted into the cache of datasets first",
            "convert them once yourself: load_dataset(...).save_to_disk(FOLDER), and give that folder",
        )
    folder = str(Path(texts[0]).parent)
    return Collected(
        described=(
            f"Hugging Face data set ({first.format}): columns {image} and {mask}"
            + ("; the class of an image fills its mask" if is_fill else "")
        ),
        masks=Masks(kind="fill" if is_fill else "labels"),
        stored=Rows(
            format="arrow" if first.format == "arrow" else "parquet",
            paths=(folder,) if first.format == "arrow" else tuple(texts),
            image_column=image,
            mask_column=mask,
        ),
        stored_count=count,
        stored_bytes=total_bytes,
    )


def _describe(tree: Tree, part: _Part) -> tuple[dict[str, Any], int]:
    """Return the features and the rows of a saved data set."""
    info = _read_json(tree, join(part.folder, b"dataset_info.json"))
    features = info.get("features")
    return features if isinstance(features, dict) else {}, _count_arrow(tree, part)


def _count_arrow(tree: Tree, part: _Part) -> int:
    """Count the rows: what dataset_info.json says may be of the data set that this one was selected from."""
    import pyarrow as pa

    total = 0
    for file in part.files:
        if file.endswith(b".arrow"):
            try:
                with pa.memory_map((tree.root + b"/" + file).decode("utf-8")) as source:
                    total += sum(batch.num_rows for batch in pa.ipc.open_stream(source))
            except (OSError, pa.ArrowInvalid, UnicodeDecodeError) as error:
                raise DatasetError(f"{printable(file)} cannot be read: {error}", "save the data set again") from error
    return total


def _describe_parquet(tree: Tree, parts: list[_Part]) -> tuple[dict[str, Any], int]:
    """Return the features that the first file's schema carries, and the rows of all files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [file for part in parts for file in part.files]
    count = 0
    features: dict[str, Any] = {}
    for file in files:
        try:
            metadata = pq.read_metadata((tree.root + b"/" + file).decode("utf-8"))
        except (OSError, pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise DatasetError(f"{printable(file)} cannot be read as parquet: {error}", "repair it") from error
        count += metadata.num_rows
        features = features or _features_in(metadata.schema.to_arrow_schema())
    return features, count


def _features_in(schema: Any) -> dict[str, Any]:
    """Return what `datasets` wrote into a schema; else columns of {bytes, path} count as images."""
    written = (schema.metadata or {}).get(b"huggingface")
    if written is not None:
        try:
            found = msgspec.json.decode(written)["info"]["features"]
        except (msgspec.DecodeError, KeyError, TypeError, RecursionError):
            found = None
        if isinstance(found, dict):
            return found
    names = [field.name for field in schema if {"bytes", "path"} <= {inner.name for inner in _children(field)}]
    return {name: {"_type": "Image"} for name in names}


def _children(field: Any) -> list[Any]:
    return [field.type.field(place) for place in range(field.type.num_fields)]


def _columns(features: dict[str, Any]) -> tuple[str, str, bool]:
    """Return the columns of images and of masks, and whether the latter holds one class for the whole image.

    Raises:
        DatasetError: There are no two such columns, or no telling which is which.
    """
    kinds = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, dict)}
    pictures = [name for name, kind in kinds.items() if kind == "Image"]
    masks = [name for name in pictures if _is_called(name, MASK_FOLDERS)]
    others = [name for name in pictures if name not in masks]
    images = [name for name in others if _is_called(name, IMAGE_FOLDERS)] or others
    if not masks and len(pictures) == 2:
        masks = [name for name in pictures if name != images[0]]
    if images and masks:
        return images[0], masks[0], False
    classes = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    if len(images) == 1 and classes:
        return images[0], classes[0], True
    held = ", ".join(f"{name} ({kind or 'other'})" for name, kind in kinds.items()) or "none that is described"
    raise DatasetError(
        f"no image column with a mask column: found {held}",
        "name them image and mask, and give them the type datasets.Image()",
    )


def _is_called(name: str, words: frozenset[str]) -> bool:
    """Say whether one of the words of a column's name is among those: `semantic_segmentation`, `pixel_values`."""
    return any(word in words for word in (name.lower(), *re.split(r"[-_. ]", name.lower())))


def _read_json(tree: Tree, path: bytes) -> dict[str, Any]:
    shown = printable(path)
    file = Path((tree.root + b"/" + path).decode("utf-8", "surrogateescape"))
    try:
        if file.stat().st_size > INFO_LIMIT_BYTES:
            raise DatasetError(f"{shown} is larger than {INFO_LIMIT_BYTES} bytes", "it is no description of a data set")
        found = msgspec.json.decode(file.read_bytes())
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise DatasetError(f"{shown} cannot be read: {error}", "save the data set again") from error
    if not isinstance(found, dict):
        raise DatasetError(f"{shown} does not describe a data set", "save the data set again")
    return found
