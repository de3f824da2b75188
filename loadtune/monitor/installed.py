"""How were the installed packages built, and do they fit together? From their files and metadata: none is imported.

Pillow is the exception: it alone knows what it was linked against, and it loads in milliseconds.
"""

import importlib.metadata
import importlib.util
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

MARK_READ_BYTES = 1 << 25
"""Bytes of an extension that are searched for the library it names: torchvision's is 1 MB. It bounds a strange file."""

_T = TypeVar("_T")
_ASSIGNMENT = re.compile(
    r"^(?P<name>__version__|cuda|hip)\s*(?::[^=\n]*)?=\s*['\"](?P<value>[^'\"]+)['\"]", re.MULTILINE
)
_REQUIREMENT = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*\(?(?P<bounds>[^;)]*)\)?\s*(?:;(?P<marker>.*))?$"
)
_BOUND = re.compile(r"^(?P<operator>==|>=|<=|~=|!=|<|>)\s*(?P<version>\d+(?:\.\d+)*)(?P<tail>\.\*)?$")


@dataclass(frozen=True, slots=True)
class Build:
    """How a PyTorch package was built, as its version.py says."""

    version: str
    """With its local label, which the metadata of PyPI's wheels lack: `2.14.1+cu130`."""
    cuda: str | None = None
    """CUDA version it was built for, `13.0`; None: it says none."""
    hip: str | None = None
    """The same for AMD."""

    @property
    def label(self) -> str | None:
        """What follows the plus sign: `cu130`, `cpu`, `rocm7.0`; None: nothing does."""
        return self.version.partition("+")[2] or None


@dataclass(frozen=True, slots=True)
class Pillow:
    """What the Pillow that is imported can do."""

    version: str
    has_turbo: bool | None
    """Whether its JPEG library is libjpeg-turbo; None: this Pillow does not tell."""
    turbo_version: str | None = None
    has_zlib_ng: bool | None = None
    """Whether PNG is inflated by zlib-ng; None: this Pillow does not tell."""


@dataclass(frozen=True, slots=True)
class ImageExtension:
    """The part of torchvision that decodes images."""

    file: str
    """Its name, of the build for this Python."""
    has_nvjpeg: bool
    """Whether it is linked against nvJPEG, so that JPEG can be decoded on a GPU."""


def find_package(name: str) -> Path | None:
    """Return the folder of a package, which is not imported; None: it is not there."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(folders[0]) if folders else None


def read_build(folder: Path | None) -> Build | None:
    """Return how a package was built; None where it is not there or says nothing."""
    if folder is None:
        return None
    try:
        return parse_build((folder / "version.py").read_text("utf-8", "replace"))
    except OSError:
        return None


def parse_build(text: str) -> Build | None:
    r"""Read torch's or torchvision's version.py.

    >>> parse_build("__version__ = '2.14.1+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n")
    Build(version='2.14.1+cu130', cuda='13.0', hip=None)
    >>> parse_build("__version__ = '2.11.0+cpu'\ncuda: Optional[str] = None\n").label
    'cpu'
    """
    found = {match["name"]: match["value"] for match in _ASSIGNMENT.finditer(text)}
    if "__version__" not in found:
        return None
    return Build(found["__version__"], found.get("cuda"), found.get("hip"))


def read_pillow() -> Pillow | None:
    """Return what Pillow can do; None where it cannot be imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns where one of its parts does not load: then it is not there
        try:
            import PIL
            from PIL import features
        except Exception:  # noqa: BLE001 - a broken installation fails in any way it likes
            return None
        return Pillow(
            version=PIL.__version__,
            has_turbo=_ask_pillow(features.check_feature, "libjpeg_turbo"),
            turbo_version=_ask_pillow(features.version_feature, "libjpeg_turbo"),
            has_zlib_ng=_ask_pillow(features.check_feature, "zlib_ng"),
        )


def read_image_extension(folder: Path | None) -> ImageExtension | None:
    """Return torchvision's image extension; None where this build has none.

    Args:
        folder: Of the package torchvision; None: it is not installed.
    """
    for path in sorted(folder.glob("image*.so")) if folder is not None else []:
        try:
            with path.open("rb") as file:
                return ImageExtension(path.name, b"libnvjpeg" in file.read(MARK_READ_BYTES))
        except OSError:
            continue
    return None


def read_requirements(distribution: str) -> dict[str, str]:
    """Return what a distribution needs besides its extras: name in small letters -> bounds such as `>=2.11`."""
    try:
        lines = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found = {}
    for line in lines:
        match = _REQUIREMENT.match(line)
        if match is not None and not match["marker"]:  # a marker is an extra, or another platform
            found[match["name"].lower()] = match["bounds"].replace(" ", "")
    return found


def is_met(version: str, bounds: str) -> bool | None:
    """Say whether a version lies within bounds; None where either is of a form that is not understood here.

    Only plain releases are understood: `2.14.1+cu130` is 2.14.1, and of `2.15.0a0` nothing is said.

    >>> is_met("2.14.1+cu130", ">=2.14.0"), is_met("2.13.0", ">=2.14.0,<3"), is_met("2.15.0a0", ">=2.14")
    (True, False, None)
    >>> is_met("2.11.0", "==2.11.0"), is_met("2.11.1", "==2.11.*"), is_met("8.3.1", "!=8.3.*,>=5.3.0")
    (True, True, False)
    """
    public = version.partition("+")[0]
    if re.fullmatch(r"\d+(\.\d+)*", public) is None:
        return None
    answers = [_is_within(public, bound) for bound in bounds.split(",") if bound]
    if False in answers:
        return False
    return None if None in answers else True


def _is_within(version: str, bound: str) -> bool | None:
    match = _BOUND.match(bound)
    if match is None:
        return None
    have, wanted = _numbers(version), _numbers(match["version"])
    if match["tail"] or match["operator"] == "~=":
        prefix = wanted if match["tail"] else wanted[:-1]
        is_same = have[: len(prefix)] == prefix
        if match["operator"] == "~=":
            return is_same and _padded(have, wanted) >= _padded(wanted, have)
        return {"==": is_same, "!=": not is_same}.get(match["operator"])
    left, right = _padded(have, wanted), _padded(wanted, have)
    return {
        "==": left == right, "!=": left != right, ">=": left >= right, "<=": left <= right,
        "<": left < right, ">": left > right,
    }[match["operator"]]  # fmt: skip


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _padded(numbers: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    """Fill with zeros up to the length of the other: 2.14 is 2.14.0."""
    return numbers + (0,) * (len(other) - len(numbers))


def _ask_pillow(question: Callable[[str], _T | None], feature: str) -> _T | None:
    try:
        return question(feature)
    except ValueError:  # a Pillow from before the feature had a name
        return None
