"""Random networks: what `methods.factored` returns is right, or it warns or raises; it is never wrong in silence."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from torch import Tensor

from methods import factored
from tests import random_criteria, random_layers, random_networks
from tests.random_networks import Spec, build, specs
from tests.random_outcomes import called, outcomes

pytestmark = pytest.mark.usefixtures("matrix_products")

QUICK = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)


@QUICK
@given(specs())
def test_random_networks_are_right_or_refused(spec: Spec) -> None:
    assert not [outcome for outcome in outcomes(spec) if outcome.how == "FAILED"]


@pytest.mark.parametrize("name", sorted(random_layers.BLOCKS.keys() - random_layers.LOWERED))
def test_a_block_takes_rows_only_as_stated(name: str) -> None:
    """Matrix products alone, without a warning, for every block that `UNSUPPORTED` does not name; otherwise as it says.

    A block that has come to be supported is to be taken off that list.
    """
    case = build(_network_of(name))
    found, warned = called(factored.hessian, case, fallback="error")
    if name in random_layers.UNSUPPORTED:
        assert isinstance(found, Exception), "it takes no rows any more: take it off UNSUPPORTED"
        assert random_layers.UNSUPPORTED[name] in str(found)
        return
    assert isinstance(found, Tensor), found
    assert not warned
    reasons = factored.explain(case.model, case.criterion, case.inputs, case.targets).values()
    assert all(how == factored.USUAL or "rows are zero" in how for how in reasons)


def _network_of(block: str) -> Spec:
    """A layer, one block and a head, for three samples of sequences with more features than positions."""
    return Spec("sequence", (block,), "logits", "cross_entropy", "none", torch.float64, False, 3, 7, 2, 1)


@pytest.mark.slow
def test_five_hundred_random_networks() -> None:
    """Prints what became of them: shown with -s."""
    met, failed = Counter[str](), []
    table = Counter[tuple[str, str, str]]()

    @settings(QUICK, max_examples=500)
    @given(specs())
    def collect(spec: Spec) -> None:
        met.update(set(spec.ingredients))
        for outcome in outcomes(spec):
            kind = outcome.text.split(":")[0] if outcome.how == "refused" else ""
            table[outcome.quantity, str(spec.dtype).removeprefix("torch."), f"{outcome.how} {kind}".strip()] += 1
            if outcome.how == "FAILED":
                failed.append((outcome, spec))

    collect()
    for (quantity, dtype, how), count in sorted(table.items()):
        print(f"{quantity:10s} {dtype:10s} {how:30s} {count:4d}")
    every = {*random_layers.BLOCKS, *random_criteria.OF_CLASSES, *random_criteria.OF_REALS, *random_criteria.PENALTIES}
    every |= {*random_networks.FLAT_INPUTS, *random_networks.SEQUENCE_INPUTS}
    assert not (unmet := every - met.keys()), f"ingredients that no network had: {unmet}"
    assert not failed, "\n".join(f"{outcome} {spec}" for outcome, spec in failed)
