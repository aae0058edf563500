"""Compositions of a sweep's cells: put together from parts, they are those that Hydra composes."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig

from harness.__main__ import extend_hydra
from harness.composition import Composition, Compositions, composition
from harness.config import CONF
from harness.plan import plan_of

Composer = Callable[[Sequence[str]], DictConfig]


class Counting:
    """Composes as Hydra's launchers do, equal overrides once, and counts what it is asked for."""

    def __init__(self, *arguments: str) -> None:
        self._loader = GlobalHydra.instance().config_loader()
        self._master = self._loader.load_configuration("config", list(arguments), RunMode.MULTIRUN)
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self.calls = 0

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        self.calls += 1
        key = tuple(overrides)
        if key not in self._composed:
            self._composed[key] = self._loader.load_sweep_config(self._master, list(overrides))
        return self._composed[key]


TUNED = "jax", "vmap_hvp", "factored"


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counting]:
    """Composes with a folder of more configurations, which Hydra searches too."""
    extra = tmp_path_factory.mktemp("extra")
    for file, text in {
        "problem/refers": "_target_: a.b\nstart: ${seed}\n",
        "problem/refers_to_itself": "_target_: a.b\nwidth: 3\nstart: ${problem.width}\n",
        "problem/empty": "",
        "problem/sets_dtype": "# @package _global_\ndtype: float64\nproblem: {_target_: a.b}\n",
        "method/sets_dtype": "# @package _global_\ndtype: float16\nmethod: {_target_: a.b}\n",
        "problem/depends": "defaults: [mlp, /names@problem: '${method}', _self_]\nwidth: 4\n",
        "names/vmap_hvp": "inputs: 5\n",
        "names/factored": "inputs: 7\n",
        "problem/tuned_in_vain": "defaults: [/tuning@_here_: '${method}', _self_]\n_target_: a.b\nwidth: 1\n",
        "problem/tuned": "defaults: [_self_, /tuning@_here_: '${method}']\n_target_: a.b\nwidth: 1\n",
        **{f"tuning/{name}": f"width: {size}\n" for size, name in enumerate(TUNED, 2)},
    }.items():
        path = extra / f"{file}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    extend_hydra()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield Counting(f"hydra.searchpath=[file://{extra}]")


def product(*axes: Sequence[str], fixed: Sequence[str] = ()) -> list[list[str]]:
    return [[*cell, *fixed] for cell in itertools.product(*axes)]


def outcome(make: Callable[[], object]) -> object:
    """The plan, or the error as a sweep shows it."""
    try:
        return make()
    except Exception as error:
        return type(error), str(error), str(error.__cause__)


def each(group: str, *names: str) -> list[str]:
    return [f"{group}={name}" for name in names]


MANY = ("mlp", "zoo/gelu", "custom")  # in these tests Hydra is asked for so many together

SWEEPS = {
    "many files": product(each("problem", *MANY), each("method", "jax", "nope"), fixed=["dtype=float64"]),
    "many files of a group that has a value": product(each("problem", *MANY), fixed=["problem.stop_gradient=true"]),
    "many files, of which one refers": product(each("problem", *MANY, "refers"), each("seed", "0", "1")),
    "many files, of which one refers to its group": product(each("problem", *MANY, "refers_to_itself")),
    "many files, of which one sets a key": product(each("problem", *MANY, "sets_dtype")),
    "many files, of which one depends": product(
        each("problem", *MANY, "depends"), each("method", "vmap_hvp", "factored")
    ),
    "many files, of which one is not there": product(each("problem", *MANY, "nope")),
    "many files, of which one is empty": product(each("problem", *MANY, "empty")),
    "many files, of which one is null": product(each("problem", *MANY, "null")),
    "many files, with an interpolation": product(
        each("quantity", "hvp", "diagonal"), each("method", "jax", "factored", "laplace")
    ),
    "a value within a group": product(
        each("problem", "mlp", "mlp_layernorm"),
        each("problem.width", "3", "5"),
        each("method", "vmap_hvp", "jax"),
    ),
    "an interpolation": product(
        each("quantity", "hessian", "hvp"), each("method", "vmap_hvp", "factored"), each("seed", "0", "1")
    ),
    "an interpolation that the first cell lacks": product(
        each("problem", "mlp", "refers"), each("seed", "0", "1"), each("dtype", "float32", "float64")
    ),
    "a file that sets a key of another": product(
        each("problem", "mlp", "sets_dtype"), each("method", "vmap_hvp", "sets_dtype"), each("seed", "0", "1")
    ),
    "a file that depends on another choice": product(
        each("problem", "mlp", "depends"), each("method", "vmap_hvp", "factored"), each("seed", "0", "1")
    ),
    "a file that depends on another choice, unseen in the first": product(
        each("method", *TUNED), each("problem", "tuned_in_vain", "tuned")
    ),
    "a key that some files lack": product(
        each("method", "jax", "vmap_hvp", "nope"),
        each("method.chunk_size", "8", "x"),
        each("threads", "1", "0"),
    ),
    "added, forced and deleted keys": product(
        ["+problem.a=1", "+problem.a=true", "+problem.a=1.0"],
        ["++method.b=1", "++method.b={c:2}"],
        fixed=["~problem.batch"],
    ),
    "an unknown key": product(each("seed", "0", "1"), each("nope", "1", "2")),
    "an unknown key that is added": product(each("seed", "0", "1"), ["+nope=1", "+nope=2"]),
    "values that cannot be used": product(each("seed", "0", "-1"), each("dtype", "float32", "float8")),
    "nothing": [],
    "a single cell": [["problem=mlp"]],
    "different lengths": [["seed=1"], ["seed=1", "dtype=float64"]],
}


@pytest.mark.parametrize("name", SWEEPS)
def test_plans_are_those_that_hydra_composes(compose: Counting, monkeypatch, name: str) -> None:
    if name.startswith("many files"):
        monkeypatch.setattr("harness.composition.FEW", len(MANY) - 1)
    compositions = Compositions(SWEEPS[name], compose)
    for cell in SWEEPS[name]:
        alone = outcome(lambda cell=cell: plan_of(composition(compose(cell))))
        assert outcome(lambda cell=cell: plan_of(compositions.of(cell))) == alone, cell


def test_a_sweep_of_groups_composes_its_files_together(compose: Counting) -> None:
    problems = each("problem", "mlp", "cnn", "zoo/gelu", "quadratic", "rosenbrock")
    cells = product(problems, each("method", "jax", "factored", "laplace"))
    before = compose.calls
    compositions = Compositions(cells, compose)
    plans = [plan_of(compositions.of(cell)) for cell in cells]
    assert len({plan.job.key for plan in plans}) == 15
    assert compose.calls - before <= 3 + 2 + 3, "the problems together, each other method, and three cells to verify"


def test_cells_are_composed_by_themselves_where_what_is_verified_differs_in_a_type(
    compose: Counting, monkeypatch
) -> None:
    cells = product(each("problem", "mlp", "cnn"), each("seed", "0", "1"))
    right = Compositions._put_together

    def wrong(self: Compositions, overrides: Sequence[str]) -> Composition | None:
        found = right(self, overrides)
        return found and dataclasses.replace(found, values={**found.values, "vectors": float(found.values["vectors"])})

    monkeypatch.setattr(Compositions, "_put_together", wrong)
    assert Compositions(cells, compose)._parts is None


def test_a_sweep_of_integers_composes_few_of_them(compose: Counting) -> None:
    cells = [["problem=mlp", f"seed={number}"] for number in range(50)]
    before = compose.calls
    compositions = Compositions(cells, compose)
    assert [plan_of(compositions.of(cell)).job.seed for cell in cells] == list(range(50))
    assert compose.calls - before <= 6


def test_integers_that_another_key_refers_to_are_composed_each(compose: Counting) -> None:
    cells = [["problem=refers", f"seed={number}"] for number in range(9)]
    compositions = Compositions(cells, compose)
    assert [compositions.of(cell).values["problem"]["start"] for cell in cells] == list(range(9))
