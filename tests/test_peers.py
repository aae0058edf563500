"""The adapters of other libraries over their releases, with stand-ins for those that are not installed."""

from __future__ import annotations

import tomllib

import pytest
import torch
from packaging.requirements import Requirement
from torch import Tensor

from harness.problems import networks
from methods import create_graph_rows
from tests.conftest import ROOT
from tests.oracles import distance
from tests.programs.peers_over_versions import lowest
from tests.rows import installed

PROBLEM = networks.mlp(inputs=3, width=2, outputs=2, batch=4)
NETWORK = PROBLEM.model, PROBLEM.criterion, PROBLEM.inputs, PROBLEM.targets


class _Operator:
    """What both stand-ins share: a matrix as an operator."""

    seen: object

    def __init__(self, model, loss, data, check_deterministic) -> None:
        ((inputs, targets),) = data
        assert check_deterministic is False
        theta = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

        def at(theta: Tensor) -> Tensor:
            parts = theta.split([parameter.numel() for parameter in model.parameters()])
            named = zip(model.named_parameters(), parts, strict=True)
            values = {name: part.view_as(parameter) for (name, parameter), part in named}
            return loss(torch.func.functional_call(model, values, (inputs,)), targets)

        self.matrix = create_graph_rows.hessian(at, theta)
        self.shape = tuple(self.matrix.shape)

    def __matmul__(self, other: Tensor) -> Tensor:
        return self.matrix @ other


class OfLists(_Operator):
    """The signature of releases up to 3.0.1."""

    def __init__(self, model_func, loss_func, params: list[Tensor], data, check_deterministic: bool = True) -> None:
        OfLists.seen = params
        super().__init__(model_func, loss_func, data, check_deterministic)


class OfDicts(_Operator):
    """The signature of what follows 3.0.1: parameters by name."""

    def __init__(
        self, model_func, loss_func, params: dict[str, Tensor], data, check_deterministic: bool = True
    ) -> None:
        OfDicts.seen = params
        super().__init__(model_func, loss_func, data, check_deterministic)


@pytest.mark.skipif(not installed("curvlinops"), reason="needs curvlinops")
@pytest.mark.parametrize("kind", [OfLists, OfDicts])
def test_curvlinops_parameters_are_given_as_the_release_takes_them(monkeypatch, kind) -> None:
    from methods.peers import curvlinops

    monkeypatch.setattr(curvlinops, "HessianLinearOperator", kind)
    true = create_graph_rows.hessian(PROBLEM.loss, PROBLEM.theta)
    assert distance(curvlinops.hessian(*NETWORK), true) < 1e-14
    vectors = torch.randn(len(true), 2, dtype=torch.float64)
    assert distance(curvlinops.hvp(*NETWORK, vectors), true @ vectors) < 1e-14
    model = NETWORK[0]
    if kind is OfDicts:
        assert list(kind.seen) == [name for name, _ in model.named_parameters()]
    given = list(kind.seen.values()) if kind is OfDicts else kind.seen
    assert all(one is other for one, other in zip(given, model.parameters(), strict=True))


@pytest.mark.skipif(not installed("curvlinops"), reason="needs curvlinops")
def test_a_frozen_parameter_is_given_to_no_release() -> None:
    from methods.peers.curvlinops_operators import operator

    frozen = networks.mlp(inputs=3, width=2, outputs=2, batch=4)
    frozen.model[0].bias.requires_grad_(False)
    for kind in (OfLists, OfDicts):
        operator(kind, frozen.model, frozen.criterion, frozen.inputs, frozen.targets)
        assert len(kind.seen) == 3


@pytest.mark.skipif(not installed("curvlinops"), reason="needs curvlinops")
def test_curvlinops_monte_carlo_fisher_of_both_releases(monkeypatch) -> None:
    """Releases after 3.0.1 have no FisherMCLinearOperator, but an option of the GGN."""
    import curvlinops

    from methods.peers import curvlinops_approximations

    class WithSamples(OfDicts):
        def __init__(self, model_func, loss_func, params: dict[str, Tensor], data, mc_samples, **options) -> None:
            WithSamples.samples = mc_samples
            super().__init__(model_func, loss_func, params, data, **options)

    found = curvlinops_approximations.ggn(*NETWORK, kind="monte_carlo_fisher").value
    assert torch.linalg.eigvalsh(found).min() > -1e-12
    monkeypatch.delattr(curvlinops, "FisherMCLinearOperator", raising=False)
    monkeypatch.setattr(curvlinops, "GGNLinearOperator", WithSamples)
    curvlinops_approximations.ggn(*NETWORK, kind="monte_carlo_fisher")
    assert WithSamples.samples == 1


@pytest.mark.skipif(not installed("curvlinops"), reason="needs curvlinops")
def test_the_installed_release_takes_parameters_in_one_of_the_two_forms() -> None:
    import curvlinops

    from methods.peers.curvlinops_operators import takes_names

    forms = {takes_names(getattr(curvlinops, name)) for name in ("HessianLinearOperator", "KFACLinearOperator")}
    assert len(forms) == 1


def test_every_peer_has_a_lowest_and_a_highest_version() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pinned = (ROOT / "constraints.txt").read_text().lower().splitlines()
    for text in extras["peers"]:
        requirement = Requirement(text)
        signs = {part.operator for part in requirement.specifier}
        assert signs in ({">=", "<"}, {"=="}), f"{text} is not bounded on both sides"
        (own,) = (line for line in pinned if line.startswith(f"{requirement.name.lower()}=="))
        assert requirement.specifier.contains(own.partition("==")[2], prereleases=True)


def test_the_lowest_versions_are_those_of_the_bounds() -> None:
    assert lowest(["one>=1.2,<3", "two==0.1a4"]) == ["one==1.2", "two==0.1a4"]
