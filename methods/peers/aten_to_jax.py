"""A torch loss as a JAX function: it is traced to ATen operators, and each of these has a JAX counterpart."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import torch
from jax import lax
from torch import Tensor
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

aten = torch.ops.aten

# Operators that torch decomposes into simpler ones.
_DECOMPOSED = [
    aten.addmm,
    aten.native_layer_norm,
    aten.native_group_norm,
    aten.native_batch_norm,
    aten.gelu,
    aten.embedding,
    aten.mse_loss,
    aten.nll_loss_forward,
    aten.softplus,
    aten.silu,
]


class Traced:
    """The tensors at which a function is traced. They equal all others of the same sizes, dtypes and devices."""

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = [tensor.detach() for tensor in tensors]
        self._kinds = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Traced) and self._kinds == other._kinds

    def __hash__(self) -> int:
        return hash(self._kinds)


@contextlib.contextmanager
def exactly() -> Iterator[None]:
    """Lets JAX compute in the precision of its arrays: float64, and float32 without TF32, as torch does here."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield


def to_jax(tensor: Tensor) -> Any:
    """A tensor as a JAX array. Raises NotImplementedError for one on a GPU that JAX does not see."""
    if tensor.is_cuda and jax.default_backend() != "gpu":
        raise NotImplementedError(f"JAX sees no GPU here, only {jax.default_backend()}: pip install 'jax[cuda]'")
    return jax.dlpack.from_dlpack(tensor.detach().contiguous())


def to_torch(array: Any, like: Tensor) -> Tensor:
    """A JAX array as a tensor, once it is computed, on the device of `like`."""
    return torch.from_dlpack(array.block_until_ready()).to(like.device)


def translated(function: Callable[..., Tensor], *examples: Tensor) -> Callable[..., Any]:
    """A function of tensors, such as a loss (P,) -> (), as one of JAX arrays of the examples' sizes and dtypes.

    Its constants are copied.

    Raises NotImplementedError that names the operators without a translation here.
    """
    table: Any = {**core_aten_decompositions(), **get_decompositions(_DECOMPOSED)}
    module = make_fx(function, decomposition_table=table)(*examples)
    module.graph.eliminate_dead_code()
    nodes = list(module.graph.nodes)
    called = {node.target for node in nodes if node.op == "call_function"}
    missing = sorted(str(target) for target in called if _name(target) not in _OPERATORS)
    if missing:
        raise NotImplementedError(f"no translation to JAX for {', '.join(missing)} (methods/peers/aten_to_jax.py)")
    constants = {node.target: _array(getattr(module, node.target)) for node in nodes if node.op == "get_attr"}

    def evaluated(*given: Any) -> Any:
        values: dict[Any, Any] = {}
        arguments_left = iter(given)
        for node in nodes:
            if node.op == "placeholder":
                values[node] = next(arguments_left)
            elif node.op == "get_attr":
                values[node] = constants[node.target]
            elif node.op == "output":
                return values[node.args[0]]
            else:
                arguments = torch.fx.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = _OPERATORS[_name(node.target)](*arguments[0], **arguments[1])
        raise AssertionError("a graph ends with its output")

    return evaluated


def _array(tensor: Tensor) -> Any:
    return jnp.asarray(tensor.detach().cpu().numpy())


def _name(target: Any) -> str:
    """`aten.add.Tensor` -> `add`: overloads share a translation."""
    return target._overloadpacket.__name__ if hasattr(target, "_overloadpacket") else target.__name__


def _dtype(dtype: torch.dtype | None) -> Any:
    return None if dtype is None else jnp.dtype(str(dtype).removeprefix("torch."))


def _convolution(
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    _output_padding: Any,
    groups: int,
) -> Any:
    if transposed:
        raise NotImplementedError("transposed convolutions have no translation to JAX here")
    result = lax.conv_general_dilated(
        x, weight, stride, [(size, size) for size in padding], rhs_dilation=dilation, feature_group_count=groups
    )
    return result if bias is None else result + bias.reshape(1, -1, *[1] * (x.ndim - 2))


def _windows(x: Any, start: float, reduce: Any, kernel: Any, stride: Any, padding: Any) -> Any:
    stride = stride or kernel
    pads = [(0, 0)] * (x.ndim - len(kernel)) + [(size, size) for size in padding]
    ones = (1,) * (x.ndim - len(kernel))
    return lax.reduce_window(x, start, reduce, (*ones, *kernel), (*ones, *stride), pads)


def _avg_pool2d(x: Any, kernel: Any, stride: Any = (), padding: Any = (0, 0), *options: Any) -> Any:
    if any(options) and list(options) != [False, True]:  # ceil_mode, count_include_pad, divisor_override
        raise NotImplementedError("average pooling with options has no translation to JAX here")
    return _windows(x, 0.0, lax.add, kernel, stride, padding) / (kernel[0] * kernel[-1])


def _max_pool2d(x: Any, kernel: Any, stride: Any = (), padding: Any = (0, 0), *options: Any) -> Any:
    if options and set(map(str, options)) - {"[1, 1]", "False"}:  # dilation, ceil_mode
        raise NotImplementedError("max pooling with options has no translation to JAX here")
    return _windows(x, -jnp.inf, lax.max, kernel, stride, padding), None


def _slice(x: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
    return x[(slice(None),) * (dim % x.ndim) + (slice(start, end, step),)]


def _split(x: Any, sizes: Any, dim: int = 0) -> Any:
    ends = [sum(sizes[: place + 1]) for place in range(len(sizes))]
    return [_slice(x, dim, end - size, end) for end, size in zip(ends, sizes, strict=True)]


def _squeeze(x: Any, dim: Any) -> Any:
    return jnp.squeeze(x, tuple(d for d in ([dim] if isinstance(dim, int) else dim) if x.shape[d] == 1))


def _expand(x: Any, sizes: Any, **_: Any) -> Any:
    shape = [own if size == -1 else size for size, own in zip(sizes[len(sizes) - x.ndim :], x.shape, strict=True)]
    return jnp.broadcast_to(x, [*sizes[: len(sizes) - x.ndim], *shape])


def _index(x: Any, indices: Any) -> Any:
    return x[tuple(slice(None) if index is None else index for index in indices)]


def _index_put(x: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
    place = x.at[tuple(slice(None) if index is None else index for index in indices)]
    return place.add(values) if accumulate else place.set(values)


def _reduced(function: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, **_: Any) -> Any:
        axes = dim if dim is None or isinstance(dim, int) else (tuple(dim) or None)
        result = function(x, axis=axes, keepdims=keepdim)
        return result if dtype is None else result.astype(_dtype(dtype))

    return reduce


def _var_mean(x: Any, dim: Any = None, correction: int = 1, keepdim: bool = False, **_: Any) -> Any:
    axes = tuple(dim) if dim is not None else None
    return jnp.var(x, axis=axes, ddof=correction, keepdims=keepdim), jnp.mean(x, axis=axes, keepdims=keepdim)


_OPERATORS: dict[str, Callable[..., Any]] = {
    "getitem": operator.getitem,
    "_linalg_check_errors": lambda *_, **__: None,
    "abs": jnp.abs,
    "add": lambda x, y, alpha=1: x + alpha * y,
    "alias": lambda x: x,
    "amax": _reduced(jnp.max),
    "any": _reduced(jnp.any),
    "arange": lambda start, end, step=1, dtype=None, **_: jnp.arange(start, end, step, _dtype(dtype)),
    "avg_pool2d": _avg_pool2d,
    "bmm": jnp.matmul,
    "cat": lambda tensors, dim=0: jnp.concatenate(tensors, dim),
    "clone": lambda x, **_: x,
    "convolution": _convolution,
    "cos": jnp.cos,
    "div": lambda x, y: x / y,
    "dot": jnp.dot,
    "eq": operator.eq,
    "erf": jax.scipy.special.erf,
    "exp": jnp.exp,
    "expand": _expand,
    "full": lambda size, value, dtype=None, **_: jnp.full(size, value, _dtype(dtype)),
    "full_like": lambda x, value, dtype=None, **_: jnp.full_like(x, value, _dtype(dtype)),
    "gather": lambda x, dim, index, **_: jnp.take_along_axis(x, index, dim),
    "ge": operator.ge,
    "gt": operator.gt,
    "index": _index,
    "index_put": _index_put,
    "le": operator.le,
    "linalg_cholesky_ex": lambda x, upper=False, **_: (jnp.linalg.cholesky(x, upper=upper), None),
    "linalg_inv_ex": lambda x, **_: (jnp.linalg.inv(x), None),
    "log": jnp.log,
    "_log_softmax": lambda x, dim, half_to_float: jax.nn.log_softmax(x, dim),
    "log1p": jnp.log1p,
    "logical_and": jnp.logical_and,
    "logical_not": jnp.logical_not,
    "lt": operator.lt,
    "max_pool2d_with_indices": _max_pool2d,
    "maximum": jnp.maximum,
    "mean": _reduced(jnp.mean),
    "mm": jnp.matmul,
    "mul": operator.mul,
    "mv": jnp.matmul,
    "ne": operator.ne,
    "neg": operator.neg,
    "permute": jnp.transpose,
    "pow": operator.pow,
    "reciprocal": lambda x: 1 / x,
    "relu": jax.nn.relu,
    "rsqrt": lax.rsqrt,
    "rsub": lambda x, y, alpha=1: y - alpha * x,
    "scalar_tensor": lambda value, dtype=None, **_: jnp.asarray(value, _dtype(dtype)),
    "select": lambda x, dim, index: jnp.take(x, index, axis=dim),
    "sigmoid": jax.nn.sigmoid,
    "sin": jnp.sin,
    "slice": _slice,
    "split_with_sizes": _split,
    "sqrt": jnp.sqrt,
    "squeeze": _squeeze,
    "squeeze_": _squeeze,
    "sub": lambda x, y, alpha=1: x - alpha * y,
    "sum": _reduced(jnp.sum),
    "tanh": jnp.tanh,
    "_softmax": lambda x, dim, half_to_float: jax.nn.softmax(x, dim),
    "_to_copy": lambda x, dtype=None, **_: x if dtype is None else x.astype(_dtype(dtype)),
    "unsqueeze": jnp.expand_dims,
    "var_mean": _var_mean,
    "view": jnp.reshape,
    "where": jnp.where,
}
