"""nngeometry (George 2021): the Fisher matrix for known distributions of the outputs, in several representations."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from nngeometry import object as representations
from nngeometry.layercollection import LayerCollection
from nngeometry.metrics import FIM
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from methods.approximations.samples import is_plain_cross_entropy
from methods.estimates import Approximation

# The representations, and the layers that the library knows for each; None for all that it knows.
KINDS: dict[str, tuple[str, ...] | None] = {
    "PMatDense": None,
    "PMatBlockDiag": None,
    "PMatDiag": None,
    "PMatQuasiDiag": ("Linear", "Conv2d"),
    "PMatKFAC": ("Linear", "Conv1d", "Conv2d"),
    "PMatEKFAC": ("Linear", "Conv1d", "Conv2d"),
}


def ggn(
    model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor, kind: str = "PMatDense"
) -> Tensor | Approximation:
    """The GGN (P, P) of a mean cross-entropy or mean squared error, which is the Fisher matrix up to a factor.

    `kind` is one of nngeometry's representations: PMatDense, which is exact, PMatBlockDiag (a block for each layer),
    PMatDiag, PMatQuasiDiag (Ollivier 2015), PMatKFAC and PMatEKFAC (George et al. 2018), which are approximations. The
    library adds up over all outputs of a sample at once, whose samples must not mix. It works on a copy of the model.

    Raises ValueError for another `kind`, and NotImplementedError for another loss, for layers that the library does not
    know or whose parameters are fixed, and for inputs that are no tensor of floating-point numbers.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; found {kind}")
    variant, scale = _distribution(criterion, targets)
    if not (isinstance(inputs, Tensor) and inputs.is_floating_point()):
        raise NotImplementedError("nngeometry differentiates in the inputs, which must be one floating-point tensor")
    _require_known_layers(model, kind)
    default = torch.get_default_dtype()
    torch.set_default_dtype(inputs.dtype)  # in which nngeometry makes some of its constants
    try:
        data = TensorDataset(inputs.detach().clone(), targets)
        loader = DataLoader(data, batch_size=len(data), generator=torch.Generator())  # or else it draws a global seed
        found = FIM(copy.deepcopy(model), loader, getattr(representations, kind), variant, device=str(inputs.device))
        if kind == "PMatEKFAC":
            found.update_diag(loader)
        matrix = found.to_torch().detach().mul_(scale)
    finally:
        torch.set_default_dtype(default)
    return matrix if kind == "PMatDense" else Approximation(matrix)


def hessian(
    model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor, kind: str = "PMatDense"
) -> Approximation:
    """The same matrix in place of the Hessian; errors as for `ggn`."""
    found = ggn(model, criterion, inputs, targets, kind)
    return found if isinstance(found, Approximation) else Approximation(found)


def _distribution(criterion: Callable[..., Tensor], targets: Tensor) -> tuple[str, float]:
    """nngeometry's name of the outputs' distribution, and the GGN over its Fisher matrix."""
    if getattr(criterion, "reduction", None) == "mean":
        if is_plain_cross_entropy(criterion, targets) and targets.dim() == 1:
            return "classif_logits", 1.0
        if isinstance(criterion, nn.MSELoss):
            return "regression", 2 * len(targets) / targets.numel()
    raise NotImplementedError("nngeometry knows plain mean CrossEntropyLoss and mean MSELoss only")


def _require_known_layers(model: nn.Module, kind: str) -> None:
    """Raise NotImplementedError for parameters that are not those of layers that the library knows, or are fixed."""
    known = KINDS[kind] or LayerCollection._known_modules
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own and type(module).__name__ not in known:
            raise NotImplementedError(
                f"{kind} is not known for the layer {name or 'model'}, a {type(module).__name__}; it is for "
                f"{', '.join(known)}"
            )
        if not all(parameter.requires_grad for parameter in own):
            raise NotImplementedError(f"nngeometry takes all parameters of a layer, and some of {name} are fixed")
