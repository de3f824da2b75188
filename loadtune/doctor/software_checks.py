"""Do the installed packages fit together, and what do they decode with? What their files say; one function a check."""

import re

from loadtune.doctor.process_checks import OPENCV_DISTRIBUTIONS
from loadtune.doctor.readings import Readings, Software
from loadtune.doctor.subject import Subject
from loadtune.monitor.environment import DISTRIBUTION, OTHER_DISTRIBUTION
from loadtune.monitor.installed import Build, is_met
from loadtune.records.diagnosis import Line

MIN_DRIVERS = {11: 450, 12: 525, 13: 580}
"""Oldest driver for each major version of CUDA: NVIDIA's "Minor Version Compatibility" page, tables of 2025."""

DECODERS = {
    "pillow-simd": "Pillow-SIMD",
    "pyturbojpeg": "PyTurboJPEG",
    "simplejpeg": "simplejpeg",
    "torchcodec": "TorchCodec",
    "nvidia-dali-cuda120": "NVIDIA DALI",
    "nvidia-dali-cuda130": "NVIDIA DALI",
    "nvidia-nvimgcodec-cu12": "nvImageCodec",
    "nvidia-nvimgcodec-cu13": "nvImageCodec",
} | dict.fromkeys(OPENCV_DISTRIBUTIONS, "OpenCV")
"""Distributions that decode images besides Pillow and torchvision, and what people call them."""

SHADOWING_PYNVML = 12
"""Before this version PyPI's `pynvml` brought a package of that name, which hides nvidia-ml-py's module pynvml.py."""

TORCH = Subject("torch", "software", "PyTorch")
PAIR = Subject("torch-torchvision", "software", "torch with torchvision")
CUDA_BUILD = Subject("cuda-build", "software", "torch's CUDA")
REQUIREMENTS = Subject("requirements", "software", "loadtune's needs")
CONFLICTS = Subject("conflicts", "software", "packages")
PILLOW = Subject("pillow", "software", "Pillow")
IMAGE_EXTENSION = Subject("torchvision-image", "software", "torchvision.io")
DECODER = Subject("decoders", "software", "other decoders")


def torch(readings: Readings) -> Line:
    """Which PyTorch there is."""
    build = readings.software.torch
    if build is None:
        return TORCH.error("not installed", "nothing can be trained", "pip install torch torchvision")
    built = "without CUDA"
    if build.cuda is not None:
        built = f"for CUDA {build.cuda}"
    elif build.hip is not None:
        built = f"for AMD's HIP {build.hip}"
    vision = readings.software.torchvision
    beside = "torchvision is not installed" if vision is None else f"torchvision {vision.version}"
    return TORCH.ok(f"{build.version}, built {built}; {beside}")


def torch_torchvision(readings: Readings) -> Line | None:
    """Whether torch and torchvision were built for each other."""
    mine, vision, bounds = readings.software.torch, readings.software.torchvision, readings.software.torchvision_needs
    if mine is None:
        return None
    if vision is None:
        why = "loadtune's own network is made of torchvision's parts"
        return PAIR.error("torchvision is not installed", why, "pip install torchvision")
    found = f"torch {mine.version} with torchvision {vision.version}"
    reinstall = "install both in one command from one index: pip install --force-reinstall torch torchvision"
    if bounds is not None and is_met(mine.version, bounds) is False:
        return PAIR.error(f"{found}, which needs torch{bounds}", "its operators do not load", reinstall)
    kinds = _build_kind(mine), _build_kind(vision)
    if None not in kinds and kinds[0] != kinds[1]:
        if kinds[1] == "cpu":
            why = "torchvision's own operators, such as nms, do not run on the GPU"
            return PAIR.warning(found, why, reinstall)
        why = "torchvision does not load: RuntimeError: operator torchvision::nms does not exist"
        return PAIR.error(found, why, reinstall)
    if bounds is None or is_met(mine.version, bounds) is None:
        return PAIR.unknown(
            f"{found}: torchvision's metadata do not say which torch it needs, or not in a form known here"
        )
    return PAIR.ok(f"built for each other ({vision.label or 'no build label'}, needs torch{bounds})")


def cuda_build(readings: Readings) -> Line | None:
    """Whether torch was built for the GPU that is here, and for its driver."""
    build, driver = readings.software.torch, readings.driver
    if build is None or not driver.gpus:
        return None
    gpu = driver.gpus[0].info.name
    if build.cuda is None:
        return CUDA_BUILD.error(
            f"torch {build.version} was built without it, and there is an {gpu}",
            "the training would run on the CPU",
            "pip uninstall torch torchvision, then pip install torch torchvision without an index for the CPU",
        )
    wanted = _numbers(build.cuda)
    if driver.cuda_version is None or wanted is None:
        return CUDA_BUILD.unknown("the driver does not say which CUDA it supports")
    have = ".".join(map(str, driver.cuda_version))
    found = f"built for {build.cuda}, the driver {driver.version or ''} supports up to {have}".replace("  ", " ")
    if wanted[0] <= driver.cuda_version[0]:
        return CUDA_BUILD.ok(found)
    least = MIN_DRIVERS.get(wanted[0])
    newer = f"install driver {least} or newer" if least is not None else "install a newer driver"
    why = "torch.cuda.is_available() is False with so old a driver"
    return CUDA_BUILD.error(found, why, f"{newer}, or a torch that was built for CUDA {driver.cuda_version[0]}")


def requirements(readings: Readings) -> Line | None:
    """Whether what loadtune needs is there."""
    if not readings.software.requirements:
        return None
    wrong = [
        f"{need.name} {need.version} is installed, {need.bounds} is needed"
        if need.version is not None
        else f"{need.name} is missing"
        for need in readings.software.requirements
        if need.version is None or is_met(need.version, need.bounds) is False
    ]
    if not wrong:
        return REQUIREMENTS.ok(f"{len(readings.software.requirements)} packages, all there in versions that fit")
    fix = f"pip install --upgrade {DISTRIBUTION}, or those packages"
    return REQUIREMENTS.error("; ".join(wrong), "loadtune was not tried with these, and may fail", fix)


def conflicts(readings: Readings) -> Line:
    """Whether packages overwrite each other's files."""
    versions, other = readings.software.versions, readings.software.other_distribution
    if other is not None:
        return CONFLICTS.error(
            f"{OTHER_DISTRIBUTION} {other} and {DISTRIBUTION} install the same package",
            "files of one overwrite those of the other, so loadtune refuses to measure",
            f"pip uninstall {OTHER_DISTRIBUTION}, then pip install --force-reinstall --no-deps {DISTRIBUTION}",
        )
    shared = [name for name in OPENCV_DISTRIBUTIONS if name in versions]
    for package, names in (("PIL", _installed(readings.software, "pillow", "pillow-simd")), ("cv2", shared)):
        if len(names) > 1:
            return CONFLICTS.warning(
                f"{' and '.join(names)} install the same package {package}",
                "which of them runs depends on which was installed last, and removing one breaks the other",
                f"pip uninstall {' '.join(names)}, then install one of them",
            )
    pynvml = _numbers(versions.get("pynvml", ""))
    if pynvml is not None and pynvml[0] < SHADOWING_PYNVML:
        return CONFLICTS.warning(
            f"pynvml {versions['pynvml']} hides nvidia-ml-py",
            "the old binding lacks calls, so that readings of the GPU are missing",
            "pip uninstall pynvml, then pip install --force-reinstall nvidia-ml-py",
        )
    return CONFLICTS.ok("none that are known to disturb each other")


def pillow(readings: Readings) -> Line:
    """Which JPEG library Pillow decodes with."""
    found = readings.software.pillow
    if found is None:
        return PILLOW.error("cannot be imported", "images cannot be decoded", "pip install --force-reinstall pillow")
    simd = readings.software.versions.get("pillow-simd")
    name = f"Pillow-SIMD {simd}" if simd is not None else found.version
    if found.has_turbo is None:
        return PILLOW.unknown(f"Pillow {found.version} does not tell which JPEG library it uses")
    if not found.has_turbo:
        why = "libjpeg-turbo decodes JPEG two to six times as fast, by its authors' figures"
        return PILLOW.warning(
            f"{name} without libjpeg-turbo", why, "pip install --force-reinstall pillow: its wheels have it"
        )
    parts = [f"libjpeg-turbo {found.turbo_version or ''}".rstrip()] + (["zlib-ng"] if found.has_zlib_ng else [])
    return PILLOW.ok(f"{name} with {' and '.join(parts)}")


def torchvision_image(readings: Readings) -> Line | None:
    """Whether torchvision can decode images itself, and on a GPU."""
    if readings.software.torchvision is None:
        return None
    extension = readings.software.image_extension
    if extension is None:
        why = "torchvision.io.decode_image and its kin raise an error"
        return IMAGE_EXTENSION.note(
            "has no image extension", why, "install torchvision from a wheel; Pillow decodes meanwhile"
        )
    gpu = "linked against nvJPEG, to decode on a GPU" if extension.has_nvjpeg else "without nvJPEG"
    return IMAGE_EXTENSION.ok(f"decodes images ({extension.file}), {gpu}")


def decoders(readings: Readings) -> Line:
    """Which other decoders are installed; whether they would be faster for these images is not guessed."""
    versions = readings.software.versions
    there = {people: f"{people} {versions[name]}" for name, people in DECODERS.items() if name in versions}
    missing = [people for people in dict.fromkeys(DECODERS.values()) if people not in there]
    listed = ", ".join(there.values()) or "none"
    return DECODER.ok(f"{listed} installed" + (f"; not installed: {', '.join(missing)}" if missing else ""))


def _build_kind(build: Build) -> str | None:
    """Return `cpu`, `cu13` (the major version decides), `rocm`, or None where the label says none of these."""
    match = re.match(r"(cpu|rocm|cu\d{2})", build.label or "")
    return match.group(1) if match is not None else None


def _installed(software: Software, *names: str) -> list[str]:
    return [name for name in names if name in software.versions]


def _numbers(version: str) -> tuple[int, int] | None:
    """Read the first two numbers: `13.0` is (13, 0); None where there are none."""
    match = re.match(r"(\d+)(?:\.(\d+))?", version)
    return (int(match.group(1)), int(match.group(2) or 0)) if match is not None else None


SOFTWARE_CHECKS = (
    torch,
    torch_torchvision,
    cuda_build,
    requirements,
    conflicts,
    pillow,
    torchvision_image,
    decoders,
)
"""In the order in which they are shown."""
