"""The harness and the methods on a pretended GPU (tests/pretended_gpu), which a process loads before torch."""

import os
import subprocess
import sys

import pytest

from tests.pretended_gpu import library

pytestmark = pytest.mark.skipif(bool(library.missing()), reason=library.missing() or "")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python program that begins with the pretended GPUs."""
    library.build()
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=library.ROOT,
        env=os.environ | library.environment(),
        capture_output=True,
        text=True,
        timeout=1500,
    )


def test_methods(capsys) -> None:
    found = run("-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "tests/pretended_gpu/checks.py")
    with capsys.disabled():
        print(f"\n{found.stdout}")
    assert found.returncode == 0, found.stdout + found.stderr
