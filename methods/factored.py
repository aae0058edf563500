"""The exact Hessian of a network by matrix products over its affine maps, instead of a pass for every row.

Let a parameter enter through z_l = W_l a_l + b_l, for each sample n at each position s (a token, a pixel). Add a shift
e_l to z_l and let, at e = 0, g_l = d loss / d e_l, M_lk = d^2 loss / d e_l d e_k and J_kl = d a_k / d e_l. Then, for l
before or equal to k, exactly

    H[(l,i,j),(k,p,q)] = sum_{n,s,t} a_l[n,s,j] (M_lk[n,(s,i),(t,p)] a_k[n,t,q] + g_k[n,t,p] J_kl[n,(t,q),(s,i)])

Samples do not mix, so one unit shift (s, i) given to all of them at once yields M and J of all: as many
forward-over-reverse passes as a layer has outputs, not parameters. The sums over n are matrix products.

A parameter that enters in another way, a layer with as many positions as inputs (whose shifts would be more than its
parameters), and one whose samples do mix, as under batch statistics, take a backward pass for each of their rows.

Bishop, "Exact calculation of the Hessian matrix for the multilayer perceptron", Neural Computation 4 (1992).
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods import curvature
from methods.affine import Network
from methods.products import Part, Use, close, drawn, slices, write

ROWS = 64  # backward passes of a row at once


def hessian(
    model: nn.Module,
    criterion: Callable[..., Tensor],
    inputs: Any,
    targets: Any,
    *,
    out: Tensor | None = None,
    memory_mb: float | None = None,
) -> Tensor:
    """Hessian (P, P) of `criterion(model(inputs), targets)` in the trainable parameters, in `named_parameters()` order.

    The samples are the first dimension of the first input. The result is written into `out`, if given, which may be a
    memory-mapped file. Beside it about `memory_mb` MiB are used (by default 256, or a tenth of the result), or what the
    shifts of one output of a layer take, or 64 backward passes for those parameters that need rows. Raises ValueError
    for an `out` of another shape, dtype or device, a `memory_mb` below zero, or a loss that is no scalar.
    """
    network = Network(model, criterion, inputs, targets)
    size = len(network.theta)
    out = network.theta.new_empty(size, size) if out is None else out
    found, asked = ((tuple(x.shape), x.dtype, x.device) for x in (out, network.theta.expand(size, size)))
    if found != asked:
        raise ValueError(f"out is {' '.join(map(str, found))}; the Hessian is {' '.join(map(str, asked))}")
    if memory_mb is not None and not memory_mb >= 0:
        raise ValueError(f"memory_mb={memory_mb} must be a number of MiB")
    memory = max(2**28, size**2 * out.element_size() / 10) if memory_mb is None else memory_mb * 2**20
    fixed, wide, penalty = _by_products(network)
    written = set()
    with _refusal_passed():
        written = _write_blocks(network, fixed - wide, out, memory)
    for name in written & penalty.keys():
        out.diagonal()[network.span[name]] += penalty[name]
    for span, rows in _rows(network, written):
        out[span], out[:, span] = rows, rows.T
    return out


def diagonal(model: nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Any) -> Tensor:
    """Diagonal (P,) of that Hessian; of a layer's own block only sum_{n,s,t} a[s,j] M[(s,i),(t,i)] a[t,j] is needed."""
    network = Network(model, criterion, inputs, targets)
    fixed, wide, penalty = _by_products(network)
    result, written = torch.zeros_like(network.theta), set()
    with _refusal_passed():
        written = _write_diagonal(network, fixed, wide, result)
    for name in written & penalty.keys():
        result[network.span[name]] += penalty[name]
    for span, rows in _rows(network, written):
        result[span] = rows[:, span].diagonal()
    return result


def hvp(model: nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Any, vectors: Tensor) -> Tensor:
    """That Hessian times vectors (P, k), as (P, k): a backward pass through one gradient's graph for each.

    Raises ValueError for vectors of another shape.
    """
    network = Network(model, criterion, inputs, targets)
    if vectors.dim() != 2 or len(vectors) != len(network.theta):
        raise ValueError(f"vectors are {tuple(vectors.shape)}; they must be ({len(network.theta)}, k), one a column")
    params = list(network.params.values())
    loss, _ = network.loss((), lambda place, z: z)
    slopes = torch.autograd.grad(loss, params, create_graph=True, materialize_grads=True)
    slope = torch.cat([part.flatten() for part in slopes])
    return torch.cat([part.flatten(1) for part in _products(slope, params, vectors.T)], dim=1).T


@contextlib.contextmanager
def _refusal_passed() -> Iterator[None]:
    """Goes on after the block where torch refuses an operation without a forward-mode derivative or a rule for vmap."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if isinstance(error, torch.OutOfMemoryError) or re.search("can't allocate memory|out of memory", str(error)):
            raise


def _by_products(network: Network) -> tuple[set[str], set[str], dict[str, Tensor]]:
    """Parameters that only enter affine maps, and those of them where these have no more inputs than positions.

    A parameter that enters elsewhere too is taken if what that adds to its rows is diagonal, as with a penalty; the
    third result holds these diagonals.
    """
    loss, calls, shifts = network.traced(network.params)
    affine, shifted, inputs = set(), Counter(), {}
    for call in calls:
        _, positions, width = call.features(call.input.detach()).shape
        for name in network.owners(call):
            affine.add(name)
            shifted[name] += positions
            inputs[name] = width
    wide = {name for name in affine if shifted[name] >= inputs[name]}
    params = list(network.params.values())
    slopes = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
    elsewhere, diagonals = set(), {}
    for place, (name, slope) in enumerate(zip(network.params, slopes, strict=True)):
        if slope is None or not slope.requires_grad:
            continue
        elsewhere.add(name)
        probe = drawn(slope)
        one, along = (
            torch.autograd.grad(slope, [*params, *shifts], vector, retain_graph=True, materialize_grads=True)
            for vector in (torch.ones_like(slope), probe)
        )
        alone = not any(bool(part.any()) for tangents in (one, along)
                        for at, part in enumerate(tangents) if at != place)  # fmt: skip
        if alone and close(along[place] - one[place] * probe, along[place]):
            diagonals[name] = one[place].flatten()
    return affine - (elsewhere - diagonals.keys()), wide, diagonals


def _uses(network: Network, fixed: set[str]) -> list[Use]:
    loss, calls, shifts = network.traced(fixed)
    slopes = torch.autograd.grad(loss, shifts, materialize_grads=True) if shifts else ()
    owners = [network.owners(call) & fixed for call in calls]
    uses = []
    for call, slope, names in zip(calls, slopes, owners, strict=True):
        a = call.features(call.input.detach())
        parts = []
        for p, features, varies in (
            (call.weight, a, call.input.is_floating_point()),
            (call.bias, a.new_ones(*a.shape[:2], 1), False),
        ):
            if network.names.get(id(p)) in names:
                parts.append(Part(network.span[network.names[id(p)]].start, features, varies, call.transposed))
        tied = sum(bool(names & others) for others in owners) > 1
        uses.append(Use(frozenset(names), tuple(parts), slope, tied))
    return uses


class _Tangents:
    """Derivatives along shifts of one call: of the slopes g of that call and those after it, and of their features.

    Finds samples that depend on each other, by a random shift of all outputs that differs from sample to sample: what
    it changes must be what the unit shifts, given to all samples at once, explain.
    """

    def __init__(self, network: Network, fixed: set[str], uses: list[Use], first: int, last: int) -> None:
        self._network, self._fixed, self._first, self._last = network, fixed, first, last
        self._zeros = [torch.zeros_like(use.slope) for use in uses]
        self._chance = drawn(uses[first].slope)
        self._whole: list[Tensor] = []
        self._left: list[Tensor] = []

    def __call__(self, which: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Along unit shifts (i, S) of the outputs `which`: M (i, S, N, T, p) of the slopes, J (i, S, N, T, q)."""
        shifts = torch.cat([_units(self._chance, which), self._chance[None]])
        with torch.no_grad():
            slopes, features = torch.func.vmap(
                lambda shift: torch.func.jvp(self._slopes, (self._zeros[self._first],), (shift,))[1]
            )(shifts)
        if not self._left:
            self._whole = [tangent[-1] for tangent in (*slopes, *features)]
            self._left = [tangent.clone() for tangent in self._whole]
        shape = (len(which), self._chance.shape[1])
        slopes, features = ([tangent[:-1].unflatten(0, shape) for tangent in part] for part in (slopes, features))
        chance = self._chance[:, :, which].mT.flatten(1)[:, None]  # (N, 1, i S)
        for left, tangent in zip(self._left, (*slopes, *features), strict=True):
            left -= torch.bmm(chance, tangent.flatten(0, 1).flatten(2).transpose(0, 1)).view(left.shape)
        return slopes, features

    def mixed(self) -> bool:
        """Whether samples depend on each other; to be asked after all outputs."""
        return not all(close(left, whole) for left, whole in zip(self._left, self._whole, strict=True))

    def _slopes(self, shift: Tensor) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        own, after = self._first, self._zeros[self._first + 1 : self._last + 1]

        def loss(shifts: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
            def chosen(place: int, z: Tensor) -> Tensor:
                return shifts[place - own] if own <= place <= self._last else torch.zeros_like(z)

            value, calls = self._network.loss(self._fixed, chosen)
            return value, [call.features(call.input) for call in calls[own + 1 : self._last + 1]]

        return torch.func.grad(loss, has_aux=True)((shift, *after))


def _units(like: Tensor, which: Tensor) -> Tensor:
    """Shifts of the outputs `which` at each position, for all samples at once: (len(which) * S, N, S, p)."""
    samples, positions, outputs = like.shape
    units = like.new_zeros(len(which), positions, samples, positions, outputs)
    place = torch.arange(positions, device=like.device)
    units[torch.arange(len(which), device=like.device)[:, None], place, :, place, which[:, None]] = 1
    return units.flatten(0, 1)


def _write_blocks(network: Network, fixed: set[str], out: Tensor, memory: float) -> set[str]:
    """Write the Hessian between the parameters `fixed`; the names of those for which that was right."""
    uses = _uses(network, fixed)
    mixed: set[str] = set()
    for name in {name for use in uses if use.tied for name in use.names}:
        out[network.span[name]] = 0
        out[:, network.span[name]] = 0
    for first, use in enumerate(uses):
        tangents, after = _Tangents(network, fixed, uses, first, len(uses) - 1), uses[first:]
        samples, positions, outputs = use.slope.shape
        moved = sum(other.slope[0].numel() + other.parts[0].features[0].numel() for other in after)
        each = out.element_size() * samples * positions * 8 * moved
        for which in torch.arange(outputs, device=out.device).split(min(max(int(memory / each), 1), outputs)):
            slopes, features = tangents(which)
            for other, slope, feature in zip(after, slopes, [None, *features], strict=True):
                write(out, use, other, int(which[0]), slope, feature)
        mixed |= use.names if tangents.mixed() else set()
    return fixed - mixed


def _write_diagonal(network: Network, fixed: set[str], wide: set[str], result: Tensor) -> set[str]:
    """Write the diagonal of the parameters `fixed`; the names of those for which that was right."""
    uses = _uses(network, fixed)
    mixed = {name for use in uses if use.tied for name in use.names}
    left = len(uses)
    with _refusal_passed():
        left = curvature.write_diagonal(network, fixed, uses, result)
    for first, use in enumerate(uses[:left]):
        if use.names <= wide:
            mixed |= use.names
            continue
        tangents = _Tangents(network, fixed, uses, first, first)
        positions, outputs = use.slope.shape[1:]
        for which in torch.arange(outputs, device=result.device).split(max(ROWS // positions, 1)):
            (slopes,), _ = tangents(which)  # (i, S, N, T, p)
            own = slopes[torch.arange(len(which)), ..., which]  # (i, S, N, T)
            for part in use.parts:
                found = torch.einsum("nsj,isnt,ntj->ij", part.features, own, part.features)
                width = part.features.shape[2]
                place = result[part.start : part.start + outputs * width]
                place = place.view(width, outputs).T if part.transposed else place.view(outputs, width)
                place[which] = found
        mixed |= use.names if tangents.mixed() else set()
    return fixed - mixed


def _rows(network: Network, but: set[str]) -> Iterator[tuple[slice, Tensor]]:
    """Places and rows (c, P) of all other parameters, each by a backward pass through one gradient's graph."""
    if len(but) == len(network.params):
        return
    params = list(network.params.values())
    loss, _ = network.loss((), lambda place, z: z)
    slopes = torch.autograd.grad(loss, params, create_graph=True, materialize_grads=True)
    for name, slope in zip(network.params, slopes, strict=True):
        if name in but:
            continue
        span = network.span[name]
        for some in slices(span.start, span.stop, ROWS):
            index = torch.arange(some.start, some.stop, device=slope.device) - span.start
            units = functional.one_hot(index, slope.numel()).to(slope).view(-1, *slope.shape)
            rows = _products(slope, params, units)
            yield some, torch.cat([part.reshape(len(index), -1) for part in rows], dim=1)


def _products(slope: Tensor, params: Sequence[Tensor], vectors: Tensor) -> Iterable[Tensor]:
    """Slopes of `slope . vector` in every parameter, for vectors (c, ...): at once, or where vmap refuses in turn."""
    if not slope.requires_grad:
        return [p.new_zeros(len(vectors), *p.shape) for p in params]
    options: dict[str, Any] = {"retain_graph": True, "allow_unused": True}
    with _refusal_passed():
        rows = torch.autograd.grad(slope, params, vectors, is_grads_batched=True, **options)
        return [
            p.new_zeros(len(vectors), *p.shape) if row is None else row for p, row in zip(params, rows, strict=True)
        ]
    each = [torch.autograd.grad(slope, params, vector, **options) for vector in vectors]
    return [torch.stack([torch.zeros_like(p) if row is None else row for row in rows])
            for p, rows in zip(params, zip(*each, strict=True), strict=True)]  # fmt: skip
