"""In which precision a loss is computed: the coarsest floating dtype that its value is made of.

A value may be cast to a coarse dtype and never reach the loss, as a value that is logged. So a coarse call is
remembered by its node of autograd's graph, and counts if the loss leads to that node. Tensors outside the graph (a
stop-gradient, the inside of a `torch.autograd.Function`) are followed from call to call. Not followed are numbers that
are taken out of torch (`.item()`), and detached tensors that are written into a view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor  # type: ignore[import]
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


class Precision:
    """Is shown every call of torch while a loss is computed; gives the precision of a tensor afterwards."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype  # of the parameters; only coarser ones are noticed
        self._nodes: dict[Node, torch.dtype] = {}  # calls within the graph that compute in a coarse dtype
        self._outside = WeakIdKeyDictionary()  # tensors without a node -> the coarsest dtype of their sources
        # The coarsest dtype within a transform of torch.func, whose graph cannot be walked.
        self._hidden: torch.dtype | None = None

    def look(self, func: Callable[..., Any], given: Sequence[Tensor], depends: bool, result: Any) -> None:
        """Notice a call; `depends` says whether a given tensor's values depend on the parameters."""
        if not depends and not any(leaf in self._outside for leaf in given):
            return
        written = given[:1] if func is Tensor.__setitem__ else tree_leaves(result)
        made = [leaf for leaf in written if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        used = [leaf for leaf in given if leaf.requires_grad and leaf.is_floating_point()]
        inside = self._coarsest([*(leaf.dtype for leaf in (*used, *made)), *map(self._outside.get, given)])
        for leaf in made:
            if leaf.grad_fn is None or is_functorch_wrapped_tensor(leaf):
                self._note_outside(leaf, self._coarsest([inside, self.of(given)]))
            elif inside is not None:
                self._nodes[leaf.grad_fn] = inside

    def of(self, tensors: Iterable[Any]) -> torch.dtype | None:
        """The coarsest dtype that these are made of; None where none is coarser than the parameters."""
        tensors = [leaf for leaf in tensors if isinstance(leaf, Tensor)]
        nodes = reached(tensors) if self._nodes else ()
        found = [self._nodes.get(node) for node in nodes]
        return self._coarsest([self._hidden, *found, *(self._outside.get(leaf) for leaf in tensors)])

    def _note_outside(self, leaf: Tensor, dtype: torch.dtype | None) -> None:
        if dtype is None:
            return
        if is_functorch_wrapped_tensor(leaf):
            self._hidden = self._coarsest([self._hidden, dtype])
        self._outside[leaf] = dtype

    def _coarsest(self, dtypes: Iterable[torch.dtype | None]) -> torch.dtype | None:
        coarse = [dtype for dtype in dtypes if dtype is not None and _eps(dtype) > _eps(self._dtype)]
        return max(coarse, key=_eps, default=None)


def reached(tensors: Iterable[Any]) -> set[Node]:
    """All nodes of autograd's graph that lead to these values."""
    waiting = [leaf.grad_fn for leaf in tensors if isinstance(leaf, Tensor)]
    known: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in known:
            known.add(node)
            waiting += [before for before, _ in node.next_functions]
    return known


def _eps(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps
