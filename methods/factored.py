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
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from methods.ravel import ravel

ROWS = 64  # backward passes of a row at once
TILES = 8  # that the two symmetric sides of a layer's own block are cut into


def hessian(
    model: nn.Module,
    criterion: Callable[..., Tensor],
    inputs: Any,
    targets: Any,
    *,
    out: Tensor | None = None,
    memory_mb: float = 256.0,
) -> Tensor:
    """Hessian (P, P) of `criterion(model(inputs), targets)` in the trainable parameters, in `named_parameters()` order.

    The samples are the first dimension of the first input. The result is written into `out`, if given, which may be a
    memory-mapped file. Beside it about `memory_mb` MiB are used, or what one gradient and 64 rows of those parameters
    that need rows take. Raises ValueError for an `out` of another shape or dtype, or a loss that is no scalar.
    """
    network = _Network(model, criterion, inputs, targets)
    size = len(network.theta)
    out = network.theta.new_empty(size, size) if out is None else out
    if out.shape != (size, size) or out.dtype != network.theta.dtype:
        raise ValueError(
            f"out is {tuple(out.shape)} {out.dtype}; the Hessian is ({size}, {size}) {network.theta.dtype}"
        )
    fixed, penalty = _by_products(network)
    written = set()
    with _refusal_passed():
        written = _write_blocks(network, fixed, out, memory_mb * 2**20)
    for name in written & penalty.keys():
        out.diagonal()[network.span[name]] += penalty[name]
    for index, rows in _rows(network, written):
        out[index], out[:, index] = rows, rows.T
    return out


def diagonal(model: nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Any) -> Tensor:
    """Diagonal (P,) of that Hessian; of a layer's own block only sum_{n,s,t} a[s,j] M[(s,i),(t,i)] a[t,j] is needed."""
    network = _Network(model, criterion, inputs, targets)
    fixed, penalty = _by_products(network)
    result, written = torch.zeros_like(network.theta), set()
    with _refusal_passed():
        written = _write_diagonal(network, fixed, result)
    for name in written & penalty.keys():
        result[network.span[name]] += penalty[name]
    for index, rows in _rows(network, written):
        result[index] = rows[torch.arange(len(index)), index]
    return result


@contextlib.contextmanager
def _refusal_passed() -> Iterator[None]:
    """Goes on after the block where torch refuses an operation without a forward-mode derivative or a rule for vmap."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "memory" in str(error):
            raise


@dataclass(frozen=True)
class _Call:
    """One call of an affine map, and how its tensors look as (N, S, features)."""

    weight: Tensor
    bias: Tensor | None
    input: Tensor
    features: Callable[[Tensor], Tensor]  # input -> a (N, S, q)
    outputs: Callable[[Tensor], Tensor]  # z -> (N, S, p)
    back: Callable[[Tensor, Tensor], Tensor]  # (N, S, p) -> the shape of z
    transposed: bool = False  # whether the weight is (q, p)


def _linear(samples: int, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> _Call | None:
    def by_sample(y: Tensor) -> Tensor:
        return y.reshape(samples, -1, y.shape[-1])

    if input.dim() < 2 or weight.dim() != 2 or not _whole(input, samples, weight, bias):
        return None
    return _Call(weight, bias, input, by_sample, by_sample, lambda e, z: e.reshape(z.shape))


def _embedding(
    samples: int,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> _Call | None:
    """A linear map of one-hot vectors, its weight transposed."""
    if padding_idx is not None or max_norm is not None or scale_grad_by_freq or sparse:
        return None
    if not input.dim() or not _whole(input, samples, weight, None):
        return None

    def features(x: Tensor) -> Tensor:
        return functional.one_hot(x, len(weight)).to(weight.dtype).reshape(samples, -1, len(weight))

    def by_sample(z: Tensor) -> Tensor:
        return z.reshape(samples, -1, z.shape[-1])

    return _Call(weight, None, input, features, by_sample, lambda e, z: e.reshape(z.shape), transposed=True)


def _convolution(
    samples: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> _Call | None:
    """A linear map of patches; a one-dimensional one has height 1."""
    flat = weight.dim() == 3
    if (
        groups != 1
        or isinstance(padding, str)
        or input.dim() != weight.dim()
        or not _whole(input, samples, weight, bias)
    ):
        return None

    def both(value: Any, height: int) -> Any:
        return (height, value if isinstance(value, int) else value[-1]) if flat else value

    kernel = both(tuple(weight.shape[2:]), 1)
    options = {"dilation": both(dilation, 1), "padding": both(padding, 0), "stride": both(stride, 1)}
    return _Call(
        weight, bias, input,
        lambda x: functional.unfold(x.unsqueeze(2) if flat else x, kernel, **options).transpose(1, 2),
        lambda z: z.flatten(2).transpose(1, 2), lambda e, z: e.transpose(1, 2).reshape(z.shape),
    )  # fmt: skip


def _whole(input: Tensor, samples: int, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether an input holds the same number of positions for each sample, and a bias one entry for each output."""
    return input.shape[0] % max(samples, 1) == 0 < len(input) and (bias is None or bias.shape == weight.shape[:1])


_AFFINE = {functional.linear: _linear, functional.conv1d: _convolution, functional.conv2d: _convolution,
           functional.embedding: _embedding}  # fmt: skip


class _Shifted(TorchFunctionMode):
    """Holds fixed the parameters of the affine maps, and adds to the output of each of their calls its shift."""

    def __init__(self, fixed: set[int], samples: int, shift: Callable[[int, Tensor], Tensor]) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self._fixed, self._samples, self._shift = fixed, samples, shift

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every function of torch that the network and the criterion call."""
        kwargs = kwargs or {}
        if function in _REWRITTEN:
            return _REWRITTEN[function](*args, **kwargs)
        call = _AFFINE[function](self._samples, *args, **kwargs) if function in _AFFINE else None
        if call is None or not self._fixed.intersection((id(call.weight), id(call.bias))):
            return function(*args, **kwargs)
        z = function(*map(self._held, args), **{name: self._held(value) for name, value in kwargs.items()})
        self.calls.append(call)
        return z + call.back(self._shift(len(self.calls) - 1, call.outputs(z)), z)

    def _held(self, value: Any) -> Any:
        return value.detach() if id(value) in self._fixed else value


def _squared_error(input: Tensor, target: Tensor, *options: Any, reduction: str = "mean", **named: Any) -> Tensor:
    if any(option is not None for option in (*options, *named.values())):
        return functional.mse_loss(input, target, *options, reduction=reduction, **named)
    squares = (input - target).square()
    return {"mean": squares.mean, "sum": squares.sum, "none": lambda: squares}[reduction]()


def _weight_norm(direction: Tensor, length: Tensor, dim: int = 0) -> Tensor:
    return direction * (length / torch.norm_except_dim(direction, 2, dim))


# Of the first torch has no jvp of the gradient, of the second a wrong double backward (torch 2.13).
_REWRITTEN = {functional.mse_loss: _squared_error, vars(torch)["_weight_norm"]: _weight_norm}


class _Network:
    """The loss as a function of shifts of its affine maps' outputs; where its parameters lie in theta."""

    def __init__(self, model: nn.Module, criterion: Callable[..., Tensor], inputs: Any, targets: Any) -> None:
        self.params = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.names = {id(p): name for name, p in self.params.items()}
        self.theta, _ = ravel(model)
        ends = [0, *itertools.accumulate(p.numel() for p in self.params.values())]
        self.span = {name: slice(*pair) for name, pair in zip(self.params, itertools.pairwise(ends), strict=True)}
        self._model, self._criterion, self._inputs, self._targets = model, criterion, inputs, targets
        self._samples = next((len(x) for x in tree_leaves(inputs) if isinstance(x, Tensor) and x.dim()), 1)

    def loss(self, fixed: Iterable[str], shift: Callable[[int, Tensor], Tensor]) -> tuple[Tensor, list[_Call]]:
        """The loss (), and the calls of affine maps of parameters that are `fixed`, shifted by `shift(place, z)`."""
        buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()} if self._model.training else {}
        shifted = _Shifted({id(self.params[name]) for name in fixed}, self._samples, shift)
        with shifted, sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention cannot be differentiated twice
            value = self._criterion(torch.func.functional_call(self._model, buffers, self._inputs), self._targets)
        if value.dim():
            raise ValueError(f"the loss must be a scalar (a tensor of shape ()), found {tuple(value.shape)}")
        return value, shifted.calls

    def traced(self, fixed: Iterable[str]) -> tuple[Tensor, list[_Call], list[Tensor]]:
        """The same at shifts of zero (N, S, p), and these, of which the loss keeps a graph."""
        shifts: list[Tensor] = []

        def shift(place: int, z: Tensor) -> Tensor:
            shifts.append(torch.zeros_like(z).requires_grad_())
            return shifts[place]

        return *self.loss(fixed, shift), shifts

    def owners(self, call: _Call) -> set[str]:
        """The parameters of a call."""
        return {self.names[id(p)] for p in (call.weight, call.bias) if id(p) in self.names}


def _by_products(network: _Network) -> tuple[set[str], dict[str, Tensor]]:
    """Parameters to do by matrix products: those that only enter affine maps with fewer positions than inputs.

    A parameter that enters elsewhere too is taken if what that adds to its rows is diagonal, as with a penalty; the
    second result holds these diagonals.
    """
    loss, calls, shifts = network.traced(network.params)
    affine, wide = set(), set()
    for call in calls:
        _, positions, width = call.features(call.input.detach()).shape
        affine |= network.owners(call)
        wide |= network.owners(call) if positions >= width else set()
    params = list(network.params.values())
    slopes = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
    penalties = {name: slope for name, slope in zip(network.params, slopes, strict=True)
                 if slope is not None and slope.requires_grad}  # fmt: skip
    diagonals: dict[str, Tensor] = {}
    if penalties:
        over = [*params, *shifts]
        probes = {name: _drawn(slope) for name, slope in penalties.items()}
        ones, along = (
            torch.autograd.grad(list(penalties.values()), over, vectors, retain_graph=True, materialize_grads=True)
            for vectors in ([torch.ones_like(slope) for slope in penalties.values()], list(probes.values()))
        )
        alone = not any(bool(part.any()) for part in (*ones[len(params) :], *along[len(params) :]))
        for name, one, other in zip(network.params, ones, along, strict=False):
            if alone and name in probes and _close(other - one * probes[name], other):
                diagonals[name] = one.flatten()
    return affine - wide - (penalties.keys() - diagonals.keys()), diagonals


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


def _uses(network: _Network, fixed: set[str]) -> list[_Use]:
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
    """Derivatives along shifts of one call: of the slopes g of that call and those after it, and of their features."""

    def __init__(self, network: _Network, fixed: set[str], uses: list[_Use], first: int, last: int) -> None:
        self._network, self._fixed, self._first, self._last = network, fixed, first, last
        self._zeros = [torch.zeros_like(use.slope) for use in uses]

    def __call__(self, units: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """From shifts (c, N, S, p): tangents (c, N, T, p) of g_first to g_last; (c, N, T, q) of a_first+1 to a_last."""
        with torch.no_grad():
            slopes, features = torch.func.vmap(
                lambda unit: torch.func.jvp(self._slopes, (self._zeros[self._first],), (unit,))[1]
            )(units)
        return list(slopes), list(features)

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


class _Mixing:
    """Finds samples that depend on each other, by one random shift that differs from sample to sample."""

    def __init__(self, tangents: _Tangents, use: _Use) -> None:
        self._chance = _drawn(use.slope)
        slopes, features = tangents(self._chance[None])
        self._whole = [tangent[0] for tangent in (*slopes, *features)]
        self._left = [tangent.clone() for tangent in self._whole]

    def take(self, which: Tensor, tangents: Iterable[Tensor]) -> None:
        """Take off what the unit shifts (i, S, N, T, ...) of some outputs explain."""
        for left, tangent in zip(self._left, tangents, strict=True):
            left -= torch.einsum("isntf,nsi->ntf", tangent, self._chance[:, :, which])

    def found(self) -> bool:
        """Whether anything is left unexplained."""
        return not all(_close(left * len(left), whole) for left, whole in zip(self._left, self._whole, strict=True))


def _drawn(like: Tensor) -> Tensor:
    """Normal draws of a fixed seed, so that the global generator stays as it was."""
    drawn = torch.randn(like.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn.to(like)


def _close(difference: Tensor, to: Tensor) -> bool:
    """Whether a difference is no more than rounding: below 1,000 units in the last place, in the norm."""
    small = 1000 * torch.finfo(to.dtype).eps
    return bool(difference.double().norm() <= small * to.double().norm())


def _write_blocks(network: _Network, fixed: set[str], out: Tensor, memory: float) -> set[str]:
    """Write the Hessian between the parameters `fixed`; the names of those for which that was right."""
    uses = _uses(network, fixed)
    mixed: set[str] = set()
    for name in {name for use in uses if use.tied for name in use.names}:
        out[network.span[name]] = 0
        out[:, network.span[name]] = 0
    for first, use in enumerate(uses):
        tangents, after = _Tangents(network, fixed, uses, first, len(uses) - 1), uses[first:]
        mixing = _Mixing(tangents, use)
        samples, positions, outputs = use.slope.shape
        moved = sum(other.slope[0].numel() + other.parts[0].features[0].numel() for other in after)
        inner = max(other.slope.shape[2] * other.parts[0].features.shape[2] for other in after)
        each = out.element_size() * samples * positions * (8 * moved + 2 * inner)
        for which in torch.arange(outputs, device=out.device).split(min(max(int(memory / each), 1), outputs)):
            slopes, features = tangents(_units(use.slope, which))
            slopes, features = (
                [tangent.unflatten(0, (len(which), positions)) for tangent in part] for part in (slopes, features)
            )
            mixing.take(which, (*slopes, *features))
            for other, slope, feature in zip(after, slopes, [None, *features], strict=True):
                _write(out, use, other, slice(int(which[0]), int(which[-1]) + 1), slope, feature)
        mixed |= use.names if mixing.found() else set()
    return fixed - mixed


def _write(out: Tensor, use: _Use, other: _Use, which: slice, slopes: Tensor, features: Tensor | None) -> None:
    """Write the rows of some outputs of one call against another's parameters, and their mirror image.

    `slopes` M (i, S, N, T, p), `features` J (i, S, N, T, q).
    """
    add = use.tied or other.tied
    for x, y in itertools.product(use.parts, other.parts):
        if other is use and y.start < x.start:
            continue  # the mirror image of the pair (y, x)
        if x is y and slopes.shape[1] == 1 and not add and not x.transposed:
            _write_symmetric(_block(out, x, use, x, use), which, slopes[:, 0, :, 0], x.features[:, 0])
            continue
        inner = _outer(slopes, y.features)  # (i, S, N, p, q)
        if features is not None and y.varies:
            inner += _outer(other.slope, features)
        summed = x.features.transpose(0, 1).flatten(0, 1).T @ inner.flatten(3).flatten(1, 2)  # (j, S N) (i, S N, p q)
        block = summed.unflatten(2, inner.shape[3:])  # (i, j, p, q)
        _put(_block(out, x, use, y, other)[which], block, add)
        if x is not y:
            _put(_block(out, y, other, x, use)[:, :, which], block.permute(2, 3, 0, 1), add)


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """sum_t left[..., t, p] right[..., t, q]."""
    return left.mT @ right if left.shape[-2] > 1 else left.mT * right


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


def _write_symmetric(block: Tensor, which: slice, curvature: Tensor, features: Tensor) -> None:
    """Write sum_n M[i,n,p] a[n,j] a[n,q] into a layer's own block (i, j, p, q), symmetric in i, p and in j, q.

    `curvature` M (i, N, p) holds the outputs `which`; of the others only those from there on are still to be written.
    """
    first, width = which.start, features.shape[1]
    left = curvature[:, :, first:].permute(0, 2, 1)  # (i, p, N)
    for start in range(0, width, -(-width // TILES)):
        tile = slice(start, start + -(-width // TILES))
        right = features[:, tile, None] * features[:, None, start:]  # (N, j, q)
        part = (left.flatten(0, 1) @ right.flatten(1)).unflatten(0, left.shape[:2]).unflatten(2, right.shape[1:])
        block[which, tile, first:, start:] = part.permute(0, 2, 1, 3)
        block[which, start:, first:, tile] = part.permute(0, 3, 1, 2)
        block[first:, tile, which, start:] = part.permute(1, 2, 0, 3)
        block[first:, start:, which, tile] = part.permute(1, 3, 0, 2)


def _write_diagonal(network: _Network, fixed: set[str], result: Tensor) -> set[str]:
    """Write the diagonal of the parameters `fixed`; the names of those for which that was right."""
    uses = _uses(network, fixed)
    mixed = {name for use in uses if use.tied for name in use.names}
    for first, use in enumerate(uses):
        tangents = _Tangents(network, fixed, uses, first, first)
        mixing = _Mixing(tangents, use)
        positions, outputs = use.slope.shape[1:]
        for which in torch.arange(outputs, device=result.device).split(max(ROWS // positions, 1)):
            (slopes,), _ = tangents(_units(use.slope, which))
            slopes = slopes.unflatten(0, (len(which), positions))  # (i, S, N, T, p)
            mixing.take(which, [slopes])
            own = slopes[torch.arange(len(which)), ..., which]  # (i, S, N, T)
            for part in use.parts:
                found = torch.einsum("nsj,isnt,ntj->ij", part.features, own, part.features)
                width = part.features.shape[2]
                place = result[part.start : part.start + outputs * width]
                place = place.view(width, outputs).T if part.transposed else place.view(outputs, width)
                place[which] = found
        mixed |= use.names if mixing.found() else set()
    return fixed - mixed


def _rows(network: _Network, but: set[str]) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices (c,) and rows (c, P) of all other parameters, each by a backward pass through one gradient's graph."""
    if len(but) == len(network.params):
        return
    params = list(network.params.values())
    loss, _ = network.loss((), lambda place, z: z)
    slopes = torch.autograd.grad(loss, params, create_graph=True, materialize_grads=True)
    for name, slope in zip(network.params, slopes, strict=True):
        if name in but:
            continue
        span = network.span[name]
        for index in torch.arange(span.start, span.stop, device=network.theta.device).split(ROWS):
            units = functional.one_hot(index - span.start, slope.numel()).to(slope).view(-1, *slope.shape)
            rows = _products(slope, params, units)
            yield index, torch.cat([part.reshape(len(index), -1) for part in rows], dim=1)


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
