"""Batches of samples: how they are given, how many samples there are, some of them, and several batches put together.

Inputs and targets are tensors, alone or in tuples, lists and dicts. The samples are the first dimension of each tensor.
Tensors of shape () and other values belong to all samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

SHARED = (type(None), bool, int, float, complex, str, torch.dtype, torch.device)  # types of values for all samples

Source = Iterable[Any] | Callable[[], Iterable[Any]]  # of batches: an iterable, or a generator function


class Batch(NamedTuple):
    """Some samples."""

    inputs: Any
    targets: Any  # None for a batch that is inputs alone


def batches(given: Source) -> Iterator[Batch]:
    """The batches that an iterable holds, or that a generator function makes.

    Raises ValueError for what can be gone through only once, and for a batch that is neither (inputs, targets) nor
    inputs alone, as a tensor or a mapping.
    """
    if isinstance(given, Iterator) or not (isinstance(given, Iterable) or callable(given)):
        once = ", which can be gone through only once" if isinstance(given, Iterator) else ""
        raise ValueError(
            f"the batches are a {type(given).__name__}{once}: give a list, a DataLoader or a generator function, which "
            "makes them each time"
        )
    for batch in given if isinstance(given, Iterable) else given():
        yield _batch(batch)


def _batch(given: Any) -> Batch:
    """Inputs and targets; the targets are None for a batch that is a tensor or a mapping, as Hugging Face's are."""
    if isinstance(given, Mapping):
        return Batch(dict(given), None)
    if isinstance(given, Tensor):
        return Batch(given, None)
    if isinstance(given, tuple | list) and len(given) == 2:
        return Batch(*given)
    found = f"{type(given).__name__} of {len(given)}" if isinstance(given, tuple | list) else type(given).__name__
    raise ValueError(
        f"a batch must be (inputs, targets), or inputs alone as a tensor or a dict; found {found}: give several inputs "
        "as a tuple, ((one, two), targets)"
    )


def count(inputs: Any) -> int:
    """N, the length of the first tensor among the inputs. Raises ValueError where there is none."""
    lengths = [len(leaf) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim()]
    if not lengths:
        raise ValueError(
            f"the inputs hold no samples: they must be tensors (N, ...), or tuples, lists and dicts of them; found "
            f"{type(inputs).__name__}"
        )
    return lengths[0]


def taken(data: Any, rows: slice, total: int) -> Any:
    """Some of the `total` samples of inputs or targets, as views.

    Raises ValueError for a tensor of another length, and for an object that may hold tensors.
    """

    def part(leaf: Any) -> Any:
        if isinstance(leaf, SHARED) or (isinstance(leaf, Tensor) and not leaf.dim()):
            return leaf
        if isinstance(leaf, Tensor) and leaf.layout == torch.strided and len(leaf) == total:
            return leaf[rows]
        found = f"a tensor {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else type(leaf).__name__
        raise ValueError(
            f"there are {total} samples, and {found} beside them whose samples are not known: give strided tensors "
            f"({total}, ...), and what belongs to all samples as an attribute or a buffer of the model"
        )

    return tree_map(part, data)


def joined(parts: Sequence[Any]) -> Any:
    """The samples of the inputs, or of the targets, of several batches as one.

    Raises ValueError where they differ in more than the number of samples.
    """
    leaves, structures = zip(*map(tree_flatten, parts), strict=True)
    if any(structure != structures[0] for structure in structures):
        raise ValueError(f"batches cannot be put together: they are {structures[0]} and other structures")
    return tree_unflatten([_joined(several) for several in zip(*leaves, strict=True)], structures[0])


def _joined(leaves: Sequence[Any]) -> Any:
    first = leaves[0]
    if isinstance(first, Tensor) and first.dim():
        kinds = {(leaf.shape[1:], leaf.dtype) if isinstance(leaf, Tensor) else type(leaf) for leaf in leaves}
        if len(kinds) == 1:
            return torch.cat(list(leaves))
        raise ValueError(
            f"batches cannot be put together: there are tensors {', '.join(sorted(map(_shown, leaves)))}; all must "
            "have one shape but for the number of samples, and one dtype"
        )
    if isinstance(first, SHARED) and all(leaf == first for leaf in leaves):
        return first
    if isinstance(first, Tensor) and all(isinstance(leaf, Tensor) and torch.equal(leaf, first) for leaf in leaves):
        return first
    raise ValueError(f"batches cannot be put together: there is a {type(first).__name__} that they do not share")


def _shown(leaf: Any) -> str:
    return f"{tuple(leaf.shape)} {leaf.dtype}" if isinstance(leaf, Tensor) else type(leaf).__name__
