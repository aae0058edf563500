"""Blocks of two affine maps' parameters as they are written into rows of a Hessian, against einsum, entry by entry."""

import ctypes
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.factoring import affine, contractions, native, products, scatter
from methods.factoring.shard import Rows
from methods.factoring.uses import Part, Use

NONE = torch.zeros(())
CALL = affine.Call(NONE, None, NONE, Tensor.clone, Tensor.clone, lambda e, z, x: e)  # whose functions are not called


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def a_use(start: int, samples: int, positions: int, outputs: int, inputs: int, kind: str) -> Use:
    """A call of a map whose parameters lie from `start` on in theta."""
    parts = []
    if kind != "bias":
        parts.append(Part(start, draw(samples, positions, inputs, seed=start), True, kind == "transposed"))
        start += outputs * inputs
    if kind in ("both", "bias"):
        parts.append(Part(start, torch.ones(samples, positions, 1, dtype=torch.float64), False, False))
    return Use(frozenset(), tuple(parts), draw(samples, positions, outputs, seed=start + 1), False, CALL)


def indices(use: Use) -> Tensor:
    """The places in theta of all parameters (i, j) of a call, its parts side by side."""
    outputs = torch.arange(use.gradient.shape[2])[:, None]
    found = []
    for part in use.parts:
        inputs = torch.arange(part.features.shape[2])
        within = inputs * len(outputs) + outputs if part.transposed else outputs * len(inputs) + inputs
        found.append(part.start + within)
    return torch.cat(found, dim=1)


def features(use: Use) -> Tensor:
    return torch.cat([part.features for part in use.parts], dim=2)


def true_block(use: Use, other: Use, curvature: Tensor, jacobian: Tensor | None) -> Tensor:
    block = torch.einsum("nsj,isntp,ntq->ijpq", features(use), curvature, features(other))
    if jacobian is not None and other.parts[0].varies:
        change = torch.einsum("nsj,ntp,isntq->ijpq", features(use), other.gradient, jacobian)
        block[..., : jacobian.shape[4]] += change
    return block


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(*[st.integers(1, 6)] * 5),
    positions=st.tuples(*[st.sampled_from([1, 1, 3])] * 2),
    kinds=st.tuples(*[st.sampled_from(["both", "both", "weight", "bias", "transposed"])] * 2),
    pairs=st.sampled_from(["own", "between", "between, of each output"]),
    rows=st.sampled_from([(0, 1), (0, 1), (0.2, 0.7), (0.4, 0.5), (0, 0.6)]),
    add=st.booleans(),
    by_torch=st.booleans(),
    cache=st.sampled_from([64, 2000, contractions.CACHE]),
    chunk=st.integers(1, 6),
)
def test_blocks_are_written_with_their_images(
    sizes, positions, kinds, pairs, rows, add, by_torch, cache, chunk
) -> None:
    samples, outputs, inputs, others, widths = sizes
    use = a_use(2, samples, positions[0], outputs, inputs, kinds[0])
    end = int(indices(use).max()) + 2
    other = use if pairs == "own" else a_use(end, samples, positions[1], others, widths, kinds[1])
    size = max(int(indices(other).max()) + 3, end)
    curvature = draw(outputs, positions[0], *other.gradient.shape, seed=3)
    jacobian = None
    if other is use:
        curvature = curvature + curvature.permute(4, 3, 2, 1, 0)
    elif other.parts[0].varies:
        jacobian = draw(outputs, positions[0], samples, positions[1], widths, seed=4)
        if pairs != "between":
            jacobian *= torch.eye(outputs, widths)[:, None, None, None]
    begin = draw(size, size, seed=5)
    true = begin.clone()
    x, y = indices(use).flatten(), indices(other).flatten()
    block = true_block(use, other, curvature, jacobian).flatten(2).flatten(0, 1)
    for here, there, entries in [(x, y, block)] if other is use else [(x, y, block), (y, x, block.T)]:
        true[here[:, None], there] = entries + (begin[here[:, None], there] if add else 0)
    held = Rows(begin[int(rows[0] * size) : int(rows[1] * size)].clone(), int(rows[0] * size))
    unavailable = mock.patch.object(scatter, "library", return_value=None) if by_torch else mock.MagicMock()
    with unavailable, mock.patch.object(contractions, "CACHE", cache):
        for first in range(0, outputs, chunk):
            some = slice(first, first + chunk)
            along = None if jacobian is None else jacobian[some]
            products.write(held, use, other, first, curvature[some], along, add)
    torch.testing.assert_close(held.entries, true[held.start : held.stop], rtol=1e-12, atol=1e-12)


needs_compiler = pytest.mark.skipif(native.library(torch.float32) is None, reason="no C compiler")


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("inputs", [40, 700])
def test_long_runs(dtype: torch.dtype, inputs: int) -> None:
    """Runs of several lines of memory, and inputs j in several groups: by the C function as by torch's operations."""
    use, other = a_use(0, 3, 1, 4, inputs, "both"), a_use(4 * (inputs + 1), 3, 1, 10, 20, "both")
    own, between = draw(4, 1, 3, 1, 4, seed=3), draw(4, 1, 3, 1, 10, seed=4)
    size = int(indices(other).max()) + 1
    found = []
    for library in (native.library, lambda dtype: None):
        rows = Rows(torch.zeros(size, size, dtype=dtype), 0)
        with mock.patch.object(scatter, "library", library), mock.patch.object(contractions, "CACHE", 2**20):
            for a, b, curvature in [(use, use, own + own.permute(4, 1, 2, 3, 0)), (use, other, between)]:
                products.write(rows, _in(a, dtype), _in(b, dtype), 0, curvature.to(dtype), None, False)
        found.append(rows.entries)
    torch.testing.assert_close(*found)


def _in(use: Use, dtype: torch.dtype) -> Use:
    parts = tuple(Part(part.start, part.features.to(dtype), part.varies, part.transposed) for part in use.parts)
    return Use(use.names, parts, use.gradient.to(dtype), use.tied, use.call)


@needs_compiler
def test_the_library_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    assert isinstance(native.library(torch.float64), ctypes.CDLL)
    (compiled,) = tmp_path.rglob("*.so")
    native.library.cache_clear()
    with mock.patch.object(native, "_run", side_effect=AssertionError("compiled again")):
        assert native.library(torch.float64) is not None
    assert list(tmp_path.rglob("*.*")) == [compiled]
    native.library.cache_clear()


@pytest.mark.parametrize("fault", ["no compiler", "compiler fails", "no folder", "no library"])
def test_without_a_library_torch_is_used(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is missing, there is neither an error nor a line on stderr, only no library."""
    place = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    if fault == "no folder":
        place.write_text("a file")
    elif fault == "no library":
        monkeypatch.setattr(native, "CODE", tmp_path / "missing.c")
    else:
        monkeypatch.setenv("CC", "no-such-compiler" if fault == "no compiler" else "false")
    native.library.cache_clear()
    assert native.library(torch.float32) is None
    assert native.library(torch.float16) is None
    native.library.cache_clear()
