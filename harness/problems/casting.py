"""Copies of a problem's objects on another device and in another dtype, whatever holds their tensors.

Pickle can walk through an object of any class, and keeps shared objects shared.

- Tensors are left out of the pickle, and cast.
- Classes, modules and objects that cannot be pickled are left out of it, and kept as they are.
- Functions are taken apart (`harness.problems.closures`), so that the tensors they close over are cast too.
"""

from __future__ import annotations

import copy
import copyreg
import io
import pickle
import types
import weakref
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.problems import closures

COMPLEX = {torch.float64: torch.complex128, torch.float16: torch.complex32}  # complex64 for all others


def cast(value: Any, device: torch.device | str, dtype: torch.dtype) -> Any:
    """A copy of an object with all of its real and complex tensors on `device` and in `dtype`.

    - The tensors may be parameters, buffers, attributes, or entries of containers or dataclasses. Functions may close
      over them, have them as defaults, or name them among the globals of their module.
    - Complex tensors take the complex dtype that belongs to `dtype`; integers and booleans keep theirs.
    - Inputs that require a gradient do so in the copy. A tensor with a history, such as an activation that a module
      keeps, is detached.
    - Objects and memory that are shared stay shared.

    Tensors of a class that is no module, and tensors that only code in C knows, are not seen.
    """
    walk = _Walk(device, dtype)
    data = walk.dumped(value)
    tensors = [entry for entry in walk.left_out if isinstance(entry, Tensor)]
    copies = dict(zip(map(id, tensors), _cast_tensors(tensors, device, dtype), strict=True))
    return _Rebuilt(io.BytesIO(data), [copies.get(id(entry), entry) for entry in walk.left_out]).load()


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors that an object holds, as `cast` finds them, each once."""
    walk = _Walk("cpu", torch.float64)
    walk.dumped(value)
    return [entry for entry in walk.left_out if isinstance(entry, Tensor)]


def same_tensor(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors, sparse or nested too, have the same layout, dtype, shape and entries; NaN equals NaN."""
    if (one.layout, one.dtype, one.device, one.is_nested) != (other.layout, other.dtype, other.device, other.is_nested):
        return False
    if one.is_nested:
        pairs = list(zip(one.unbind(), other.unbind(), strict=False))
        return one.size(0) == other.size(0) and all(same_tensor(*pair) for pair in pairs)
    if one.shape != other.shape:
        return False
    if one.layout != torch.strided:
        one, other = _in_coordinates(one), _in_coordinates(other)
        return same_tensor(one._indices(), other._indices()) and same_tensor(one._values(), other._values())
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _in_coordinates(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor if tensor.layout == torch.sparse_coo else tensor.to_sparse_coo()


class _Kept:
    """An object that is left out of the pickle, and kept as it is."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Walk(pickle.Pickler):
    """Walks through an object; `left_out` are the objects that are not in the pickle, by their persistent ids."""

    def __init__(self, device: torch.device | str, dtype: torch.dtype) -> None:
        self._buffer = io.BytesIO()
        super().__init__(self._buffer, protocol=4)
        self.left_out: list[Any] = []
        self._places: dict[int, int] = {}
        self._device, self._dtype, self._search = device, dtype, closures.Search()

    def dumped(self, value: Any) -> bytes:
        """The pickle of an object."""
        self.dump(value)
        return self._buffer.getvalue()

    def persistent_id(self, value: Any) -> int | None:
        """The index in `left_out` of a tensor, or of an object that is kept; None for one that is walked through."""
        if isinstance(value, _Kept):
            value = value.value
        elif not isinstance(value, Tensor) and not self._is_kept(value):
            return None
        if id(value) not in self._places:
            self._places[id(value)] = len(self.left_out)
            self.left_out.append(value)
        return self._places[id(value)]

    def _is_kept(self, value: Any) -> bool:
        """Whether a value has no tensors within it, or none that could be replaced."""
        if isinstance(value, types.FunctionType):
            return not self._search.finds_tensors(value)
        if isinstance(value, types.BuiltinFunctionType):
            return value.__self__ is None or isinstance(value.__self__, types.ModuleType | type)
        if isinstance(value, type | types.ModuleType | types.CodeType):
            return True
        return closures.is_torchs_own(value) and not isinstance(value, nn.Module | torch.Generator)

    def reducer_override(self, value: Any) -> Any:
        """How an object is taken apart and rebuilt, in the form of `object.__reduce__`."""
        if isinstance(value, types.FunctionType):
            return closures.reduced(value, self._search, _Kept)
        if isinstance(value, types.CellType):
            return types.CellType, ()  # filled with what the function closes over
        if isinstance(value, types.MethodType):
            return types.MethodType, (value.__func__, value.__self__)
        if isinstance(value, weakref.ref):
            return (_value_of, (_Kept(value),)) if value() is None else (weakref.ref, (value(),))
        if isinstance(value, torch.jit.ScriptModule | torch.fx.GraphModule):
            return _value_of, (_Kept(copy.deepcopy(value).to(self._device, self._dtype)),)
        if isinstance(value, nn.Module):
            state = vars(value) | closures.of_class(value, self._search)
            return copyreg.__newobj__, (type(value),), state, None, None, _set_vars  # type: ignore[attr-defined]
        reduce = copyreg.dispatch_table.get(type(value))
        try:
            found = value.__reduce_ex__(4) if reduce is None else reduce(value)
        except Exception:  # of any kind: an object that cannot be pickled raises its own
            return _value_of, (_Kept(value),)
        return (_value_of, (_Kept(value),)) if isinstance(found, str) else found


class _Rebuilt(pickle.Unpickler):
    """Rebuilds an object, with other values for what was left out."""

    def __init__(self, file: io.BytesIO, left_out: Sequence[Any]) -> None:
        super().__init__(file)
        self._left_out = left_out

    def persistent_load(self, place: Any) -> Any:
        """The value for an object that was left out."""
        return self._left_out[place]


def _value_of(value: Any) -> Any:
    return value


def _set_vars(value: Any, state: dict[str, Any]) -> None:
    vars(value).update(state)


def _cast_tensors(tensors: Sequence[Tensor], device: torch.device | str, dtype: torch.dtype) -> list[Tensor]:
    """Copies of tensors, cast; those that share memory share it in the copies."""
    shared = Counter(map(_memory, tensors))
    copies: dict[Any, Tensor] = {}
    found = []
    for tensor in tensors:
        memory = _memory(tensor)
        target = _target(tensor, dtype)
        if memory is None or shared[memory] == 1:
            made = tensor.detach().to(device, target, copy=True)
        else:
            if memory not in copies:
                whole = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())
                copies[memory] = whole.to(device, target, copy=True)
            made = copies[memory].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        found.append(_with_attributes(tensor, made))
    return found


def _memory(tensor: Tensor) -> Any:
    """A key that tensors sharing memory have in common; None for a tensor that cannot be a view of a copy."""
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta or tensor.is_conj() or tensor.is_neg():
        return None
    address = tensor.untyped_storage().data_ptr()
    return (address, tensor.dtype) if address else None


def _target(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    if tensor.is_complex():
        return COMPLEX.get(dtype, torch.complex64)
    return dtype if tensor.is_floating_point() else tensor.dtype


def _with_attributes(original: Tensor, made: Tensor) -> Tensor:
    """A copy that is a parameter, requires a gradient and has attributes, as the original does."""
    if isinstance(original, nn.Parameter):
        made = Tensor._make_subclass(type(original), made, original.requires_grad)
    elif original.is_leaf and original.requires_grad:
        made.requires_grad_()
    vars(made).update(vars(original))
    return made
