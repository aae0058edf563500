"""A package outside this one adds a row, with no edit here: by --config-dir and by an entry point."""

import subprocess
import sys
from pathlib import Path

from harness import record

METHOD = '''
import torch


def hessian(loss, theta, scale=1.0):
    """Forward-over-forward."""
    return scale * torch.func.jacfwd(torch.func.jacfwd(loss))(theta)


config = {"_target_": "outside.${quantity}", "scale": 1.0}
'''


def write_package(folder: Path) -> dict[str, str]:
    (folder / "outside.py").write_text(METHOD)
    return {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"}


def test_by_config_dir(harness, tmp_path: Path) -> None:
    environment = write_package(tmp_path)
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "by_folder.yaml").write_text("_target_: outside.${quantity}\nscale: 2.0\n")
    done = harness(f"--config-dir={tmp_path / 'conf'}", "method=by_folder", "problem=quadratic", env=environment)
    seen = record.read(next((tmp_path / "run").glob("*/record.json")))
    assert (seen["method"], seen["status"], seen["target"]) == ("by_folder", "wrong", "outside.hessian"), done.stderr
    assert abs(seen["relative_error"] - 1) < 1e-6, "it doubles the Hessian: off by once the Hessian"


def test_by_entry_point(harness, tmp_path: Path) -> None:
    environment = write_package(tmp_path)
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "outside"\nversion = "1"\n[tool.setuptools]\npy-modules = ["outside"]\n'
        '[project.entry-points."harness.methods"]\nby_entry_point = "outside:config"\n'
        'broken = "outside:nothing_there"\n'
    )
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*command, str(tmp_path / "site"), str(tmp_path)], check=True, capture_output=True)
    environment["PYTHONPATH"] = str(tmp_path / "site")
    done = harness("-m", "method=by_entry_point", "problem=quadratic,rosenbrock", "dtype=float64", env=environment)
    assert done.returncode == 0, done.stderr
    assert "broken" in done.stderr
    frame = record.load(tmp_path / "run")
    assert list(frame["method"]) == ["by_entry_point"] * 2
    assert list(frame["status"]) == ["ok"] * 2
    assert "by_entry_point" in harness("method=nosuch", env=environment).stderr
