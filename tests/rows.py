"""The rows of conf/method, as a test calls them."""

import importlib
from pathlib import Path

from omegaconf import OmegaConf

ROWS = {path.stem: OmegaConf.load(path) for path in (Path(__file__).parent.parent / "conf" / "method").glob("*.yaml")}
TARGETS = {row: OmegaConf.to_container(options)["_target_"] for row, options in ROWS.items()}
SHARDED = {row for row, target in TARGETS.items() if target.startswith("methods.sharded.")}  # they ask for a mesh

# Rows of each sample's own derivatives: they ask for `points` (tests/test_per_sample.py).
PER_SAMPLE = {
    row
    for row, target in TARGETS.items()
    if target.startswith(("methods.per_sample.", "methods.peers.jax_per_sample."))
}


def target(row: str, quantity: str) -> tuple[str, str, dict]:
    """Module, function and options of a row."""
    options = OmegaConf.to_container(OmegaConf.merge(ROWS[row], {"quantity": quantity}), resolve=True)
    options.pop("quantity")
    path, _, name = options.pop("_target_").rpartition(".")
    return path, name, options


def bound(row: str, quantity: str):
    """The row's function for a quantity (None where it has none) and its options."""
    path, name, options = target(row, quantity)
    return getattr(importlib.import_module(path), name, None), options


def installed(row: str) -> bool:
    """Whether a row can be called here: not one of a peer that is not installed."""
    try:
        bound(row, "hessian")
    except ModuleNotFoundError:
        assert target(row, "hessian")[0].startswith("methods.peers."), (
            f"{row} needs a package that the harness does not install"
        )
        return False
    return True
