"""The Hessian as the Jacobian of the gradient: every composition of jacfwd and jacrev, and of either with grad."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.func import grad, jacfwd, jacrev

OUTER = "jacfwd", "jacrev"
INNER = {"jacfwd": jacfwd, "jacrev": jacrev, "grad": grad}


def hessian(
    loss: Callable[[Tensor], Tensor],
    theta: Tensor,
    outer: str = "jacfwd",
    inner: str = "grad",
    chunk_size: int | None = None,
) -> Tensor:
    """Hessian of `loss` at `theta` ((P,) -> (P, P)) as `outer(inner(loss))`.

    torch.func.hessian is jacfwd(jacrev). With an inner jacrev or jacfwd the result is silently off by percents on
    networks with an affine LayerNorm (torch 2.13); with an inner grad it is right. jacfwd(jacfwd) holds P^2 tangents at
    once. With an outer jacrev `chunk_size` rows are computed at once (None: all); torch's jacfwd has no such option.

    Raises ValueError for an unknown composition, a `chunk_size` below 1, or a `chunk_size` with an outer jacfwd.
    """
    if outer not in OUTER or inner not in INNER:
        raise ValueError(
            f"outer must be one of {', '.join(OUTER)} and inner one of {', '.join(INNER)}; found {outer}({inner})"
        )
    if chunk_size is not None and not (isinstance(chunk_size, int) and chunk_size >= 1):
        raise ValueError(f"chunk_size must be a positive integer, or null for all at once; found {chunk_size}")
    if outer == "jacfwd":
        if chunk_size is not None:
            raise ValueError(f"outer=jacfwd takes no chunk_size; found {chunk_size}: use null, or outer=jacrev")
        return jacfwd(INNER[inner](loss))(theta)
    return jacrev(INNER[inner](loss), chunk_size=chunk_size)(theta)
