"""Energies of atoms that are sums over pairs, and their forces; draws from one seed, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.problems.construction import from_network
from harness.problems.errors import ProblemError
from harness.problems.fields import DERIVATIVES, SquaredError, mean, perceptron
from harness.problems.networks import draw_parameters, require_one_of, require_positive
from harness.problems.problem import Problem

SPACING, NOISE = 1.25, 0.05  # of the lattice on which atoms are drawn, and of each coordinate and each force


def potential(
    *,
    seed: int = 0,
    form: str = "learned",
    task: str = "forces",
    atoms: int = 4,
    width: int = 8,
    depth: int = 1,
    batch: int = 8,
    derivatives: str = "func",
) -> Problem:
    """The energy of `atoms` at positions (N, A, 3), a sum over pairs of a function of their distance r.

    - `form` is "harmonic" (k (r - l)^2 / 2), "lennard_jones" (4 e ((s / r)^12 - (s / r)^6)) or "learned": a perceptron
      with tanh. The parameters are k and l, e and s, or those of the perceptron.
    - `task="forces"` is the mean squared error of the forces, minus the energy's gradient in the positions, from those
      of Lennard-Jones with noise: force matching (Ercolessi and Adams 1994).
    - `task="energy"` is the mean energy, for derivatives in the positions (`wrt=inputs`). Those of second order have
      the closed forms `harmonic_hessian` and `lennard_jones_hessian`.
    """
    require_positive("potential", atoms=atoms, width=width, depth=depth, batch=batch)
    if atoms < 2:
        raise ProblemError(f"potential: atoms={atoms} must be at least 2")
    require_one_of(
        "potential",
        form=(form, ("harmonic", "lennard_jones", "learned")),
        task=(task, ("forces", "energy")),
        derivatives=(derivatives, DERIVATIVES),
    )
    generator = torch.Generator().manual_seed(seed)
    known: dict[str, Callable[[], nn.Module]] = {"harmonic": Harmonic, "lennard_jones": LennardJones}
    pair = known[form]() if form in known else draw_parameters(perceptron(1, width, depth), generator)
    energy = _PairEnergy(pair, atoms).double()
    side = math.ceil(atoms ** (1 / 3) - 1e-9)
    axis = SPACING * torch.arange(side, dtype=torch.float64)
    lattice = torch.cartesian_prod(axis, axis, axis)[:atoms]
    positions = lattice + NOISE * torch.randn(batch, atoms, 3, generator=generator, dtype=torch.float64)
    if task == "energy":
        return from_network(energy, mean, positions, input_hessian=INPUT_HESSIANS.get(form))
    forces = _Forces(_PairEnergy(LennardJones(), atoms).double(), "func")(positions).detach()
    noise = NOISE * torch.randn(forces.shape, generator=generator, dtype=torch.float64)
    return from_network(_Forces(energy, derivatives), SquaredError(), positions, forces + noise)


class Harmonic(nn.Module):
    """The energy of springs of one stiffness and rest length, (M, 1) -> (M, 1) in their lengths r."""

    def __init__(self) -> None:
        super().__init__()
        self.stiffness, self.length = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))

    def forward(self, r: Tensor) -> Tensor:
        """k (r - l)^2 / 2."""
        return self.stiffness * (r - self.length) ** 2 / 2


class LennardJones(nn.Module):
    """The energy of Lennard-Jones with a depth and a distance, (M, 1) -> (M, 1) in the distances r."""

    def __init__(self) -> None:
        super().__init__()
        self.depth, self.distance = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))

    def forward(self, r: Tensor) -> Tensor:
        """4 e ((s / r)^12 - (s / r)^6)."""
        power = (self.distance / r) ** 6
        return 4 * self.depth * (power**2 - power)


class _PairEnergy(nn.Module):
    """The sum over pairs of atoms of a function of their distance.

    Differences of positions are a matrix product, since torch 2.13 compiles the gradient of an index wrongly under vmap
    (issue 183986).
    """

    incidence: Tensor  # (pairs, A): 1 for the first atom of a pair, -1 for the second

    def __init__(self, pair: nn.Module, atoms: int) -> None:
        super().__init__()
        self.pair = pair
        first, second = torch.eye(atoms)[torch.triu_indices(atoms, atoms, 1)]
        self.register_buffer("incidence", first - second)

    def forward(self, positions: Tensor) -> Tensor:
        """(N, A, 3) -> (N,)."""
        distances = (self.incidence @ positions).square().sum(-1).sqrt()  # (N, pairs)
        return self.pair(distances.unsqueeze(-1)).flatten(1).sum(1)


class _Forces(nn.Module):
    """Minus the gradient of an energy in the positions."""

    def __init__(self, energy: nn.Module, derivatives: str) -> None:
        super().__init__()
        self.energy, self.derivatives = energy, derivatives

    def forward(self, positions: Tensor) -> Tensor:
        """(N, A, 3) -> (N, A, 3)."""
        if self.derivatives == "func":
            return -torch.func.grad(lambda x: self.energy(x).sum())(positions)
        with torch.enable_grad():
            x = positions if positions.requires_grad else positions.detach().requires_grad_()
            return -torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]


def harmonic_hessian(positions: Tensor, stiffness: float = 1.0, length: float = 1.0) -> Tensor:
    """The Hessian (N, 3A, 3A) of the energy with form="harmonic", in each row of the positions (N, A, 3)."""
    return _pair_hessian(positions, lambda r: stiffness * (r - length), lambda r: stiffness * torch.ones_like(r))


def lennard_jones_hessian(positions: Tensor, depth: float = 1.0, distance: float = 1.0) -> Tensor:
    """The Hessian (N, 3A, 3A) of the energy with form="lennard_jones", in each row of the positions (N, A, 3)."""

    def slope(r: Tensor) -> Tensor:
        return 24 * depth * ((distance / r) ** 6 - 2 * (distance / r) ** 12) / r

    def curvature(r: Tensor) -> Tensor:
        return 24 * depth * (26 * (distance / r) ** 12 - 7 * (distance / r) ** 6) / r**2

    return _pair_hessian(positions, slope, curvature)


def _pair_hessian(
    positions: Tensor, slope: Callable[[Tensor], Tensor], curvature: Callable[[Tensor], Tensor]
) -> Tensor:
    """The Hessian (N, 3A, 3A) of sum_{a < b} f(r_ab) in the positions (N, A, 3), from f' and f''.

    With the unit vector n from b to a, the pair adds B = f'' n n^T + f' / r (I - n n^T) to the blocks (a, a) and (b, b)
    and -B to (a, b) and (b, a).
    """
    count, atoms, _ = positions.shape
    apart = positions[:, :, None] - positions[:, None]  # (N, A, A, 3)
    itself = torch.eye(atoms, dtype=positions.dtype, device=positions.device)
    r = apart.square().sum(-1).sqrt() + itself  # 1 on the diagonal, where nothing is taken
    along = apart / r[..., None]
    outer = along[..., :, None] * along[..., None, :]
    across = torch.eye(3, dtype=positions.dtype, device=positions.device) - outer
    pairs = curvature(r)[..., None, None] * outer + (slope(r) / r)[..., None, None] * across
    pairs = pairs * (1 - itself)[:, :, None, None]  # (N, A, A, 3, 3)
    blocks = torch.diag_embed(pairs.sum(2).permute(0, 2, 3, 1)).permute(0, 3, 4, 1, 2) - pairs
    return blocks.permute(0, 1, 3, 2, 4).reshape(count, 3 * atoms, 3 * atoms)


# Closed forms of each configuration's Hessian, for the parameters that `potential` begins with.
INPUT_HESSIANS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "harmonic": lambda _model, positions: harmonic_hessian(positions),
    "lennard_jones": lambda _model, positions: lennard_jones_hessian(positions),
}
