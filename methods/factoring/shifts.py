"""Derivatives along unit shifts of the outputs of affine maps; symbols as in `methods.factored`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from methods.factoring.certificate import Certificate
from methods.factoring.comparison import PARAMETER, TOLERANCE
from methods.factoring.network import Network
from methods.factoring.numerics import drawn, every, norm, slices
from methods.factoring.refusals import Refused, refusals
from methods.factoring.uses import Use

ROUNDING = 1000  # machine epsilons of the largest derivative that a combination of others may differ from it by


class Derivatives(NamedTuple):
    """Derivatives along shifts (i, S) of one call."""

    gradients: list[Tensor]  # M (i, S, N, T, p), of the gradients g of that call and those after it
    features: list[Tensor]  # J (i, S, N, T, q), of the features of those after it


class Shifts:
    """Derivatives along shifts of the outputs of the first of some calls.

    It also finds samples that depend on each other. One more shift is random and differs from sample to sample; the
    unit shifts, which all samples get at once, must explain what it changes. `check` reads what was found.
    """

    def __init__(
        self, network: Network, fixed: set[str], before: int, uses: Sequence[Use], certificate: Certificate
    ) -> None:
        self._network, self._certificate = network, certificate
        self._fixed, self._before = fixed, before  # parameters of affine maps, and how many of their calls come before
        self._uses = uses
        self._random = drawn(uses[0].gradient)
        self._value: list[
            Tensor
        ] = []  # the loss (), the distance () of its gradients from the plain ones, their size ()
        self._whole: list[Tensor] = []  # what the random shift changes
        self._unexplained: list[Tensor] = []  # the part of it that no unit shift so far explains

    def along(self, outputs: slice) -> Derivatives:
        """Derivatives along the unit shifts of some outputs i at every position.

        Raises Refused where torch has no rule for an operation.
        """
        shifts = torch.cat([_unit_shifts(self._random, outputs), self._random[None]])
        with torch.no_grad(), refusals():
            loss, gradients, derivatives = torch.func.vmap(self._derivative)(shifts)
        if not self._whole:
            self._value = [loss[0], *self._distance([gradient[0] for gradient in gradients])]
            self._whole = [derivative[-1] for derivative in derivatives]
            self._unexplained = [derivative.clone() for derivative in self._whole]
        positions = self._random.shape[1]
        weights = self._random[:, :, outputs].mT.flatten(1)[:, None]  # (N, 1, i S)
        for unexplained, derivative in zip(self._unexplained, derivatives, strict=True):
            by_sample = derivative[:-1].flatten(2).transpose(0, 1)  # (N, i S, T p)
            unexplained -= torch.bmm(weights, by_sample).view(unexplained.shape)
        units = [derivative[:-1].unflatten(0, (-1, positions)) for derivative in derivatives]
        return Derivatives(units[: len(self._uses)], units[len(self._uses) :])

    def found(self) -> Tensor:
        """What `check` reads (4,), once all outputs have been shifted."""
        count = len(self._uses)
        slopes = [*(use.gradient for use in self._uses), self._certificate.gradient.detach()]
        of_gradients = self._unexplained[:count], [*self._whole[:count], *slopes]
        features = [use.parts[0].features for use in self._uses if use.parts]
        of_features = self._unexplained[count:], [*self._whole[count:], *features]
        separate = every(all_close(*pair) for pair in (of_gradients, of_features) if pair[0])
        return torch.stack([number.double() for number in (*self._value, separate)])

    def _distance(self, gradients: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The distance () of gradients (N, T, p) under torch's transforms from the plain ones, and their size ().

        The size includes that of the parameters' gradient: those of some outputs may be zero but for rounding.
        """
        plain = [use.gradient for use in self._uses]
        distances = [norm(x - y) for x, y in zip(gradients, plain, strict=True)]
        sizes = [*map(norm, plain), norm(self._certificate.gradient.detach())]
        return torch.stack(distances).sum(), torch.stack(sizes).sum()

    def _derivative(self, shift: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The loss (), its gradients, and the derivatives along a shift (N, S, p) of the gradients and the features."""
        zero = torch.zeros_like(self._uses[0].gradient)
        values, derivatives = torch.func.jvp(self._gradients, (zero,), (shift,))  # type: ignore[misc]  two values without has_aux
        gradients, (loss, _) = values
        along_gradients, (_, along_features) = derivatives
        return loss, gradients, (*along_gradients, *along_features)

    def _gradients(self, shift: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, list[Tensor]]]:
        """The gradients (N, T, p) of all calls, the loss (), and the features of the calls after the first."""
        zeros = [torch.zeros_like(use.gradient) for use in self._uses[1:]]
        return torch.func.grad(self._loss, has_aux=True)((shift, *zeros))

    def _loss(self, shifts: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
        first, end = self._before, self._before + len(self._uses)

        def shift(call: int, z: Tensor) -> Tensor:
            return shifts[call - first] if first <= call < end else torch.zeros_like(z)

        loss, calls = self._network.loss(self._fixed, shift)
        features = [call.features(call.input) for call in calls[first + 1 : end]]
        return loss, (loss, features)


def all_close(differences: Sequence[Tensor], to: Sequence[Tensor]) -> Tensor:
    """Whether () differences are only rounding of the largest of some tensors: a zero derivative is rounding alone."""
    largest = torch.stack(list(map(norm, to))).max()
    distances = torch.stack(list(map(norm, differences)))
    return (distances <= ROUNDING * torch.finfo(to[0].dtype).eps * largest).all()


def check(found: Sequence[Tensor], certificate: Certificate, precision: torch.dtype) -> list[bool]:
    """Whether samples depend on each other, for what each of several `Shifts` found. All are read at once.

    Raises Refused where the loss or its gradient has another value under torch's transforms than without them.
    """
    if not found:
        return []
    numbers = torch.stack(list(found)).tolist()
    for loss, distance, size, _ in numbers:
        if not certificate.has_value(loss):
            raise Refused(f"the loss under torch's transforms is {loss:.6g}, not {certificate.value:.6g}")
        # A gradient near zero is a sum of terms that cancel, so that a hundred tolerances are allowed.
        if not distance <= PARAMETER * TOLERANCE[precision] * size:
            raise Refused(f"the loss's gradient under torch's transforms is off by {distance:.1e} of {size:.1e}")
    return [not separate for *_, separate in numbers]


def _unit_shifts(like: Tensor, outputs: slice) -> Tensor:
    """The unit shift of each of some outputs i at each position, for all samples at once: (i S, N, S, p)."""
    samples, positions, width = like.shape
    output = torch.arange(outputs.start, outputs.stop, device=like.device)[:, None]
    units = like.new_zeros(len(output), positions, samples, positions, width)
    position = torch.arange(positions, device=like.device)
    units[output - outputs.start, position, :, position, output] = 1
    return units.flatten(0, 1)


def all_outputs(use: Use, at_once: int) -> list[slice]:
    """All outputs of a use, in chunks."""
    return slices(0, use.gradient.shape[2], at_once)
