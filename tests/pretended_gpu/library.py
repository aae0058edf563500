"""Builds the library of the pretended GPUs against torch's headers. Torch itself is not imported."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

RELEASE = "2.13"  # of torch, whose headers and dispatch rules `gpu.cpp` was written for
ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).with_name("gpu.cpp")
BUILT = ROOT / "build" / "pretended_gpu"
VARIABLE = "PRETENDED_GPU"  # of the environment; see `startup`


def missing() -> str | None:
    """Why there can be no pretended GPU here; None where there can be one."""
    version = importlib.metadata.version("torch")
    if not version.startswith(f"{RELEASE}."):
        return f"the pretended GPU was written for torch {RELEASE}, and this is {version}"
    if (_torch() / "lib" / "libtorch_cuda.so").exists():
        return "the pretended GPU needs a torch that was built for the CPU, and this one has CUDA"
    if shutil.which("g++") is None:
        return "the pretended GPU is built by g++, which is not on the PATH"
    return None


def environment() -> dict[str, str]:
    """The variables with which every Python process begins with the pretended GPUs."""
    return {VARIABLE: "1", "PYTHONPATH": f"{Path(__file__).with_name('startup')}{os.pathsep}{ROOT}"}


def build() -> Path:
    """The library, built unless it is there. Builds at the same time end with the same file, written whole."""
    torch = _torch()
    name = hashlib.sha256(SOURCE.read_bytes() + importlib.metadata.version("torch").encode()).hexdigest()[:16]
    library = BUILT / f"{name}.so"
    if library.exists():
        return library
    BUILT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILT) as folder:
        part = Path(folder) / library.name
        compiler = ["g++", "-O1", "-w", "-std=c++20", "-fPIC", "-shared"]
        include = [f"-I{torch / 'include'}", f"-I{torch / 'include/torch/csrc/api/include'}"]
        link = [f"-L{torch / 'lib'}", f"-Wl,-rpath,{torch / 'lib'},--no-as-needed", "-ltorch_cpu", "-lc10"]
        subprocess.run([*compiler, *include, str(SOURCE), "-o", str(part), *link], check=True)
        part.replace(library)
    return library


def load() -> ctypes.CDLL:
    """Load the library. It must be loaded before torch, which asks once whether there is CUDA."""
    built = build()
    ctypes.CDLL(str(_torch() / "lib" / "libtorch_global_deps.so"), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(built))


def _torch() -> Path:
    """The folder of the installed torch."""
    found = importlib.util.find_spec("torch")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent
