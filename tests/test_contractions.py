"""The sums over samples of the factored Hessian, against einsum, for random shapes and orders of storage."""

from unittest import mock

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.factoring import contractions
from methods.factoring.contractions import Factors, pieces

STORED = [(0, 1, 2, 3, 4), (2, 1, 0, 3, 4), (2, 0, 1, 3, 4), (4, 2, 3, 1, 0)]  # orders of (i, S, N, T, p) in memory


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stored(derivatives: Tensor, order: tuple[int, ...]) -> Tensor:
    """The same derivatives, in another order of storage."""
    inverse = [order.index(dim) for dim in range(5)]
    return derivatives.permute(order).contiguous().permute(inverse)


def block(factors: Factors) -> Tensor:
    """The block (i, j, p, q) as the docstring of `methods.factoring.products` states it."""
    found = torch.einsum("nsj,isntp,ntq->ijpq", factors.left, factors.curvature, factors.right)
    if factors.jacobian is not None:
        width = factors.jacobian.shape[-1]
        found[..., :width] += torch.einsum("nsj,ntp,isntq->ijpq", factors.left, factors.gradient, factors.jacobian)
    return found


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(*[st.integers(1, 4)] * 7),
    positions=st.sampled_from(["neither", "first", "second", "both"]),
    jacobian=st.sampled_from(["none", "dense", "of each output"]),
    constant=st.booleans(),
    order=st.sampled_from(STORED),
    half=st.none() | st.integers(0, 2),
    cache=st.sampled_from([64, 1000, contractions.CACHE]),
)
def test_pieces_cover_the_block(sizes, positions, jacobian, constant, order, half, cache) -> None:
    samples, own, tokens, i, j, p, q = sizes
    own = own if positions in ("first", "both") else 1
    tokens = tokens if positions in ("second", "both") else 1
    p = p + i + (half or 0)
    right = draw(samples, tokens, q, seed=1)
    along = draw(i, own, samples, tokens, q, seed=2)
    if jacobian == "of each output":
        along = along * torch.eye(i, q)[:, None, None, None]
    if constant:
        right = torch.cat([right, torch.ones(samples, tokens, 1, dtype=right.dtype)], dim=2)
    factors = Factors(
        left=draw(samples, own, j, seed=3),
        curvature=stored(draw(i, own, samples, tokens, p, seed=4), order),
        right=right,
        gradient=draw(samples, tokens, p, seed=5),
        jacobian=None if jacobian == "none" else stored(along, order),
    )
    true = block(factors)
    found = torch.full_like(true, torch.nan)
    with mock.patch.object(contractions, "CACHE", cache):
        for piece in pieces(factors, half, found):
            place = found[piece.i, piece.j, piece.p, piece.q]
            assert place.isnan().all(), "an entry is computed twice"
            place.copy_(piece.entries)
    if half is None:
        assert not found.isnan().any()
    else:
        assert not any(found[x, :, half + x :].isnan().any() for x in range(i))
    torch.testing.assert_close(torch.where(found.isnan(), true, found), true, rtol=1e-12, atol=1e-12)
