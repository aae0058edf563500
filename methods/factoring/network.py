"""A network's loss, evaluated as it is or with shifts of the outputs of its affine maps."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves

from methods import calls
from methods.factoring.affine import Call
from methods.factoring.modes import PlainMode, Shift, ShiftMode
from methods.ravel import ravel


class _GradientHooks(NamedTuple):
    """The hooks on gradients that one attribute of a parameter or module holds."""

    owner: Tensor | nn.Module
    attribute: str
    hooks: Any  # a dict; None on a parameter without hooks


class Network:
    """The loss `criterion(model(inputs), targets)`, and where its trainable parameters lie in theta (P,).

    The samples are the first dimension of the first tensor among the inputs. The criterion may be None for a model
    that computes its own loss (`methods.calls.completed`).

    With `by_entries`, affine maps with no fewer positions than inputs are shifted in the entries of their parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[..., Tensor] | None,
        inputs: Any,
        targets: Any,
        by_entries: bool = False,
    ) -> None:
        self.params = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.names = {id(p): name for name, p in self.params.items()}
        self.theta, _ = ravel(model)
        ends = [0, *itertools.accumulate(p.numel() for p in self.params.values())]
        self.span = {name: slice(*pair) for name, pair in zip(self.params, itertools.pairwise(ends), strict=True)}
        self.hooked = False  # whether there are hooks on gradients; known after `plain`
        self.precision = self.theta.dtype  # the lowest between the parameters and the loss; known after `loss`
        self._model, self._inputs, self._targets = model, inputs, targets
        self._by_entries = by_entries
        self._criterion = calls.completed(criterion, targets)
        self.samples = next((len(x) for x in tree_leaves(inputs) if isinstance(x, Tensor) and x.dim()), 1)

    def plain(self, hooks: bool = True) -> Tensor:
        """The loss () as the user would evaluate it; only weight_norm is written out.

        Without `hooks` those that the network registers on activations are left out. Raises ValueError unless the loss
        is a scalar.
        """
        with PlainMode(hooks) as plain, sdpa_kernel(SDPBackend.MATH):
            value = _scalar(self._criterion(self._outputs(), self._targets))
        self.hooked = plain.hooked or any(found.hooks for found in self._gradient_hooks())
        return value

    @contextlib.contextmanager
    def unhooked(self) -> Iterator[None]:
        """Takes the hooks on gradients off parameters and modules, and puts them back at the end."""
        with contextlib.ExitStack() as restored:
            for owner, attribute, hooks in self._gradient_hooks():
                restored.callback(setattr, owner, attribute, hooks)
                setattr(owner, attribute, None if isinstance(owner, Tensor) else type(hooks)())
            yield

    def _gradient_hooks(self) -> Iterator[_GradientHooks]:
        for parameter in self.params.values():
            yield _GradientHooks(parameter, "_backward_hooks", parameter._backward_hooks)
        for module in self._model.modules():
            yield _GradientHooks(module, "_backward_hooks", module._backward_hooks)
            yield _GradientHooks(module, "_backward_pre_hooks", module._backward_pre_hooks)

    def loss(self, fixed: Iterable[str], shift: Shift) -> tuple[Tensor, list[Call]]:
        """The loss () with shifts, and the calls of affine maps whose weight or bias is among the `fixed` parameters.

        Raises ValueError unless the loss is a scalar, and Refused where parameters are fixed and the network calls what
        torch's transforms do not take.
        """
        mode = self._shift_mode(fixed, shift)
        with mode, sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention cannot be differentiated twice
            value = self._criterion(self._outputs(), self._targets)
        self.precision = mode.precision
        return _scalar(value), mode.calls

    def unshifted(self) -> Tensor:
        """The loss () with nothing fixed or shifted; functions that torch differentiates badly are rewritten.

        Raises ValueError unless the loss is a scalar.
        """
        value, _ = self.loss((), lambda call, z: z)
        return value

    def traced(self, fixed: Iterable[str]) -> tuple[Tensor, list[Call], list[Tensor]]:
        """As `loss`, at shifts of zero: the loss, the calls, and the shifts (N, S, p) in the graph of the loss."""
        shifts: list[Tensor] = []

        def shift(call: int, z: Tensor) -> Tensor:
            shifts.append(torch.zeros_like(z).requires_grad_())
            return shifts[call]

        value, found = self.loss(fixed, shift)
        return value, found, shifts

    def traced_outputs(self, fixed: Iterable[str]) -> tuple[Any, list[Tensor], list[Tensor]]:
        """The network's outputs, those of its affine maps (N, S, p) before the shifts, and the shifts of zero."""
        maps: list[Tensor] = []
        shifts: list[Tensor] = []

        def shift(call: int, z: Tensor) -> Tensor:
            maps.append(z)
            shifts.append(torch.zeros_like(z).requires_grad_())
            return shifts[call]

        with self._shift_mode(fixed, shift), sdpa_kernel(SDPBackend.MATH):
            return self._outputs(), maps, shifts

    def criterion(self, outputs: Any) -> Tensor:
        """The loss () of given outputs of the network."""
        with self._shift_mode((), lambda call, z: z):
            return self._criterion(outputs, self._targets)

    def owners(self, call: Call) -> set[str]:
        """The names of the trainable parameters that are the weight or the bias of a call."""
        return {self.names[id(p)] for p in (call.weight, call.bias) if id(p) in self.names}

    def _shift_mode(self, fixed: Iterable[str], shift: Shift) -> ShiftMode:
        ids = {id(self.params[name]) for name in fixed}
        return ShiftMode(ids, self.samples, shift, self.theta.dtype, self._by_entries)

    def _outputs(self) -> Any:
        return calls.call(self._model, self._buffers(), self._inputs)

    def _buffers(self) -> dict[str, Tensor]:
        """Copies of the buffers, since a call may change them in any mode."""
        return {name: buffer.clone() for name, buffer in self._model.named_buffers()}


def _scalar(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.dim():
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"the loss must be a scalar (a tensor of shape ()), found {found}")
    return value
