"""The C code beside this module, compiled on first use with the system's compiler (about a second).

It needs no headers of torch. The library is kept in the user's cache folder, under a name that depends on the code, the
compiler and the machine. Without a compiler, and wherever else something fails, there is no library, and its users take
torch's operations instead.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

NUMBERS = {torch.float32: ("float", "int32_t"), torch.float64: ("double", "int64_t")}  # and integers as wide
CODE = Path(__file__).with_name("scatter.c")
LIMIT_S = 60  # for the compiler


@lru_cache
def library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The compiled code for numbers of a type, or None where there is none."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if dtype not in NUMBERS or compiler is None:
        return None
    try:
        return ctypes.CDLL(str(_compiled(compiler, *NUMBERS[dtype])))
    except (OSError, RuntimeError, subprocess.SubprocessError):
        return None


def _compiled(compiler: str, number: str, index: str) -> Path:
    """The library's file, compiled where it is not there yet."""
    code, runtime = CODE.read_bytes(), _openmp()
    facts = (number, compiler, Path(compiler).stat().st_mtime_ns, runtime, platform.machine(), platform.libc_ver())
    name = hashlib.sha256(code + repr(facts).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "factored-hessian"
    library = folder / f"{name}.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        threads = ["-fopenmp"] if runtime else []
        _run(
            compiler,
            "-O3",
            "-fPIC",
            f"-DT={number}",
            f"-DINDEX={index}",
            *threads,
            "-c",
            str(CODE),
            "-o",
            f"{place}/code.o",
        )
        _run(compiler, "-shared", f"{place}/code.o", *([runtime] if runtime else []), "-o", f"{place}/code.so")
        Path(place, "code.so").replace(library)  # whole or not at all, whatever other processes do
    return library


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=LIMIT_S)


def _openmp() -> str | None:
    """GNU's OpenMP library that torch has loaded, whose threads are then shared; None for one thread."""
    maps = Path("/proc/self/maps")
    found = re.search(r"/\S*libgomp\S*", maps.read_text()) if maps.exists() else None
    return found[0] if found else None
