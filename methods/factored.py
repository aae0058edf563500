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
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.affine import Network

ROWS = 64  # backward passes of a row at once
TILE = 32  # inputs of a layer that are done at once where its own block is symmetric in two of them
CACHE, CACHE_GPU = 2**23, 2**27  # bytes of what is computed at once, so that it is still near when it is written


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
    fixed, penalty = _by_products(network)
    written = set()
    with _refusal_passed():
        written = _write_blocks(network, fixed, out, memory)
    for name in written & penalty.keys():
        out.diagonal()[network.span[name]] += penalty[name]
    for span, rows in _rows(network, written):
        out[span], out[:, span] = rows, rows.T
    return out


def diagonal(model: nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Any) -> Tensor:
    """Diagonal (P,) of that Hessian; of a layer's own block only sum_{n,s,t} a[s,j] M[(s,i),(t,i)] a[t,j] is needed."""
    network = Network(model, criterion, inputs, targets)
    fixed, penalty = _by_products(network)
    result, written = torch.zeros_like(network.theta), set()
    with _refusal_passed():
        written = _write_diagonal(network, fixed, result)
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


def _by_products(network: Network) -> tuple[set[str], dict[str, Tensor]]:
    """Parameters to do by matrix products: those that only enter affine maps with fewer positions than inputs.

    A parameter that enters elsewhere too is taken if what that adds to its rows is diagonal, as with a penalty; the
    second result holds these diagonals.
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
        probe = _drawn(slope)
        one, along = (
            torch.autograd.grad(slope, [*params, *shifts], vector, retain_graph=True, materialize_grads=True)
            for vector in (torch.ones_like(slope), probe)
        )
        alone = not any(bool(part.any()) for tangents in (one, along)
                        for at, part in enumerate(tangents) if at != place)  # fmt: skip
        if alone and _close(along[place] - one[place] * probe, along[place]):
            diagonals[name] = one[place].flatten()
    return affine - wide - (elsewhere - diagonals.keys()), diagonals


@dataclass(frozen=True)
class _Part:
    """What one parameter is to a call."""

    start: int  # in theta
    features: Tensor  # a (N, S, q) that it multiplies; ones for a bias
    varies: bool  # whether they depend on the shifts of calls before
    transposed: bool  # whether it is (q, p)


@dataclass(frozen=True)
class _Use:
    """A call whose parameters are done by matrix products."""

    names: frozenset[str]
    parts: tuple[_Part, ...]
    slope: Tensor  # g (N, S, p)
    tied: bool  # whether another call has one of the same parameters


def _uses(network: Network, fixed: set[str]) -> list[_Use]:
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
                parts.append(_Part(network.span[network.names[id(p)]].start, features, varies, call.transposed))
        tied = sum(bool(names & others) for others in owners) > 1
        uses.append(_Use(frozenset(names), tuple(parts), slope, tied))
    return uses


class _Tangents:
    """Derivatives along shifts of one call: of the slopes g of that call and those after it, and of their features.

    Finds samples that depend on each other, by a random shift of all outputs that differs from sample to sample: what
    it changes must be what the unit shifts, given to all samples at once, explain.
    """

    def __init__(self, network: Network, fixed: set[str], uses: list[_Use], first: int, last: int) -> None:
        self._network, self._fixed, self._first, self._last = network, fixed, first, last
        self._zeros = [torch.zeros_like(use.slope) for use in uses]
        self._chance = _drawn(uses[first].slope)
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
        return not all(_close(left, whole) for left, whole in zip(self._left, self._whole, strict=True))

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


def _drawn(like: Tensor) -> Tensor:
    """Normal draws of a fixed seed, so that the global generator stays as it was."""
    drawn = torch.randn(like.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn.to(like)


def _close(difference: Tensor, to: Tensor) -> bool:
    """Whether a difference is no more than rounding: below 1,000 units in the last place, in the norm."""
    small = 1000 * torch.finfo(to.dtype).eps
    return bool(difference.double().norm() <= small * to.double().norm())


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
                _write(out, use, other, int(which[0]), slope, feature)
        mixed |= use.names if tangents.mixed() else set()
    return fixed - mixed


def _write(out: Tensor, use: _Use, other: _Use, first: int, slopes: Tensor, features: Tensor | None) -> None:
    """Write the rows of some outputs, from `first` on, of a call against another's parameters, and their mirror image.

    `slopes` M (i, S, N, T, p), `features` J (i, S, N, T, q).
    """
    add = use.tied or other.tied
    samples, positions, outputs = other.slope.shape
    pairs = [(use.parts, other.parts)]
    if other is use:  # a part with those before it; the other pairs are mirror images
        pairs = [(use.parts[: index + 1], (y,)) for index, y in enumerate(use.parts)]
    for parts, others in pairs:
        half = other is use and len(parts) == 1 and not add  # symmetric in i and p
        if half and positions == 1 and not parts[0].transposed:
            _write_symmetric(
                _block(out, parts[0], use, parts[0], use), first, slopes[:, 0, :, 0], parts[0].features[:, 0]
            )
            continue
        left, right = (torch.cat([part.features for part in some], dim=2) for some in (parts, others))
        (_, own, inputs), width = left.shape, right.shape[2]
        varying = features if features is not None and others[0].varies else None
        if own > 1 and own * (1 + 2 * positions / inputs) > 2 * positions:
            contracted, columns = _by_rows, outputs
            each = inputs * (samples * positions * (outputs + width) + outputs * width)
            rows, _ = _at_once(len(slopes), 1, each, out)
        else:
            contracted = _by_outputs
            rows, columns = _at_once(len(slopes), outputs, samples * own * width, out)
        for i in _slices(0, len(slopes), rows):
            which = slice(first + i.start, first + i.stop)
            for p in _slices(which.start if half else 0, outputs, columns):
                moved = None if varying is None else varying[i]
                product = contracted(left, slopes[i, ..., p], right, other.slope[..., p], moved)
                for x, rows_of_x in zip(parts, product.split([x.features.shape[2] for x in parts], dim=1), strict=True):
                    blocks = rows_of_x.split([y.features.shape[2] for y in others], dim=3)
                    for y, block in zip(others, blocks, strict=True):
                        _put(_block(out, x, use, y, other)[which, :, p], block, add)
                        if half or x is not y:
                            _put(_block(out, y, other, x, use)[p, :, which], block.permute(2, 3, 0, 1), add)


def _by_rows(left: Tensor, slopes: Tensor, right: Tensor, slope: Tensor, varying: Tensor | None) -> Tensor:
    """The block (i, j, p, q), the sum over the positions s first: it takes 4 N T operations an entry.

    `varying` J has the first columns of `right`; the others, which a bias multiplies, are constant.
    """
    product = torch.einsum("nsj,isntp->ijpnt", left, slopes).flatten(3) @ right.flatten(0, 1)
    if varying is not None:
        along = torch.einsum("nsj,isntq->ijntq", left, varying).flatten(2, 3)
        product[..., : varying.shape[-1]] += slope.flatten(0, 1).T @ along
    return product


def _by_outputs(left: Tensor, slopes: Tensor, right: Tensor, slope: Tensor, varying: Tensor | None) -> Tensor:
    """The block (i, j, p, q), the sum over the positions t first: it takes 2 N S (1 + 2 T / j) operations an entry.

    The inner sums (i, p, q, S, N) are the tangents of the samples' own gradients.
    """
    if slopes.shape[3] == 1:  # samples last, along which the processor's vectors run
        inner = _samples_last(slopes)[:, :, None] * right[:, 0].T.contiguous()[:, None]
        if varying is not None:
            moved = inner[:, :, : varying.shape[-1]]
            moved.addcmul_(slope[:, 0].T.contiguous()[:, None, None], _samples_last(varying)[:, None])
    else:
        inner = torch.einsum("isntp,ntq->ipqsn", slopes, right).contiguous()
        if varying is not None:
            inner[:, :, : varying.shape[-1]] += torch.einsum("ntp,isntq->ipqsn", slope, varying)
    left = left.permute(2, 1, 0).flatten(1)  # (j, S N)
    inner = inner.flatten(3).flatten(1, 2)  # (i, p q, S N)
    return torch.bmm(left.expand(len(inner), -1, -1), inner.mT).unflatten(2, (-1, right.shape[2]))


def _samples_last(tangents: Tensor) -> Tensor:
    """(i, S, N, 1, p) as (i, p, S, N)."""
    return tangents[:, :, :, 0].permute(0, 3, 1, 2).contiguous()


def _write_symmetric(block: Tensor, first: int, curvature: Tensor, features: Tensor) -> None:
    """Write sum_n M[i,n,p] a[n,j] a[n,q] into a layer's own block (i, j, p, q), symmetric in i, p and in j, q.

    `curvature` M (i, N, p) holds the outputs from `first` on; of the others only those after are still to be written.
    """
    outputs, width = block.shape[:2]
    features = features.T.contiguous()  # (q, N)
    tile = max(min(-(-width // 4), TILE, math.isqrt(_cached(block) // (4 * features.shape[1]))), 1)
    rows, _ = _at_once(-(-outputs // 8), outputs, 4 * tile**2, block)
    for i in _slices(0, len(curvature), rows):
        start, stop = first + i.start, first + i.stop
        left = curvature[i, :, start:].transpose(1, 2).flatten(0, 1)  # (i p, N)
        for j in _slices(0, width, tile):
            for q in _slices(j.start, width, 4 * tile):
                right = (features[j, None] * features[q]).flatten(0, 1)  # (j q, N)
                part = (left @ right.T).view(stop - start, outputs - start, j.stop - j.start, q.stop - q.start)
                block[start:stop, j, start:, q] = part.permute(0, 2, 1, 3)
                rest = slice(max(j.stop, q.start), q.stop)
                block[start:stop, rest, start:, j] = part[..., rest.start - q.start :].permute(0, 3, 1, 2)
        block[stop:, :, start:stop] = block[start:stop, :, stop:].permute(2, 1, 0, 3)


def _at_once(rows: int, columns: int, each: int, out: Tensor) -> tuple[int, int]:
    """How many rows and columns of entries, `each` numbers wide, stay in the processor's cache."""
    fit = max(_cached(out) // each, 1)
    return (min(fit // columns, rows), columns) if fit >= columns else (1, fit)


def _cached(out: Tensor) -> int:
    """Numbers like those of `out` in what is computed at once."""
    return (CACHE if out.device.type == "cpu" else CACHE_GPU) // out.element_size()


def _slices(start: int, stop: int, step: int) -> list[slice]:
    return [slice(at, min(at + step, stop)) for at in range(start, stop, step)]


def _put(place: Tensor, block: Tensor, add: bool) -> None:
    if add:
        place += block
    else:
        place.copy_(block)


def _block(out: Tensor, x: _Part, use: _Use, y: _Part, other: _Use) -> Tensor:
    """The block of two parameters as (i, j, p, q), a view of out."""
    (p, q), (r, s) = ((u.slope.shape[2], part.features.shape[2]) for u, part in ((use, x), (other, y)))
    down, along = out.stride()
    rows = (down, down * p) if x.transposed else (down * q, down)
    columns = (along, along * r) if y.transposed else (along * s, along)
    start = out.storage_offset() + x.start * down + y.start * along
    return out.as_strided((p, q, r, s), (*rows, *columns), start)


def _write_diagonal(network: Network, fixed: set[str], result: Tensor) -> set[str]:
    """Write the diagonal of the parameters `fixed`; the names of those for which that was right."""
    uses = _uses(network, fixed)
    mixed = {name for use in uses if use.tied for name in use.names}
    for first, use in enumerate(uses):
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
        for some in _slices(span.start, span.stop, ROWS):
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
