"""The script of a record runs where there is no harness, and finds what the record found."""

import json
import re
import subprocess
import sys

import pytest
import torch

from harness import record
from harness.problems import from_function
from harness.reproduce import command
from harness.reproduce.script import script
from harness.reproduce.source import ReproduceError

ZOO = "harness.problems.zoo"
CASES = {
    "layer": (f"{ZOO}.layers.layer", {"name": "LayerNorm", "arguments": {"normalized_shape": 4}, "shape": [4]}),
    "ours": (f"{ZOO}.layers.layer", {"name": f"{ZOO}.modules.weight_norm", "arguments": {"features": 4}, "shape": [4]}),
    "function": (f"{ZOO}.functions.function", {"name": "torch.linalg.det", "shape": [3, 3]}),
    "own": ("tests.examples.custom_problem.my_problem", {"hidden": 4}),
    "data": ("tests.test_reproduce.weighted", {}),
    "problem": ("harness.problems.networks.mlp", {"width": 4, "inputs": 3, "outputs": 2, "norm": "layer", "batch": 8}),
}


def weighted():
    """A function with data, as a builder returns it."""
    return weighted_cubes, torch.tensor([0.5, -1.0]), (torch.tensor([2.0, 3.0]),)


def weighted_cubes(x, weights):
    """What the builder above gives."""
    return (weights * x**3).sum() + x.prod() ** 2


def one_tensor():
    """A function whose data is one tensor."""
    return weighted_cubes, torch.tensor([0.5, -1.0]), torch.tensor([2.0, 3.0])


def made():
    """A problem of a function."""
    return from_function(weighted_cubes, torch.tensor([0.5, -1.0]), (torch.tensor([2.0, 3.0]),))


def line():
    """A layer of three outputs."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3), torch.nn.Tanh())


def penalised():
    """A network with a penalty on its parameters within the criterion."""
    model = line()

    def criterion(outputs, targets):
        return (outputs - targets).square().mean() + model[0].weight.pow(4).sum()

    return model, criterion, torch.ones(4, 2), torch.ones(4, 3)


def without_targets():
    """A loss of the outputs alone."""
    return line(), lambda outputs: outputs.square().sum(), torch.ones(4, 2)


class Summed(torch.nn.Module):
    """Computes its loss itself."""

    def __init__(self):
        super().__init__()
        self.inner = line()

    def forward(self, x):
        """The sum of its squared outputs."""
        return self.inner(x).square().sum()


def summed():
    """A network that computes its loss itself."""
    return Summed(), None, {"x": torch.ones(4, 2)}


def run(folder, seen):
    """What the script says, in an interpreter that does not see the harness."""
    (folder / "script.py").write_text(script(seen, trusted=True))
    command = [sys.executable, "-I", "script.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    return done.stdout + done.stderr


@pytest.mark.parametrize("target", ["methods.func_hessian.hessian", "methods.create_graph_rows.hessian"])
@pytest.mark.parametrize("name", CASES)
def test_a_script_finds_what_its_record_found(tmp_path, run_record, name, target) -> None:
    path, options = CASES[name]
    seen = run_record(problem_target=path, problem_options=options, target=target)
    said, error = run(tmp_path, seen), seen["relative_error"]
    if error is None:
        assert seen["message"].split(" -> ")[0] in said
        return
    printed = float(re.search("differences: (.*)", said)[1])
    assert printed == pytest.approx(error, rel=0.05) if error > 1e-6 else printed < 1e-6


@pytest.mark.usefixtures("by_products")
@pytest.mark.parametrize("builder", [penalised, without_targets, summed, one_tensor, made])
def test_a_script_has_the_loss_that_the_harness_has(job, capsys, builder) -> None:
    cell = job(problem_target=f"{__name__}.{builder.__name__}", problem_options={})
    seen = cell.fields() | {"status": "ok", "torch": torch.__version__, "relative_error": None, "attention": "math"}
    exec(script(seen, trusted=True), {"__name__": "script"})
    assert float(re.search("differences: (.*)", capsys.readouterr().out)[1]) < 1e-6


@pytest.fixture
def run_record(launcher, job, tmp_path):
    return lambda **changes: record.read(launcher.run(job(passes=("agreement",), **changes), tmp_path / "run"))


def test_the_command_line_prints_one_record_or_says_which_there_are(tmp_path, run_record, capsys) -> None:
    path, options = CASES["layer"]
    run_record(problem_target=path, problem_options=options)
    assert command.main([str(tmp_path / "run")]) == 0
    assert "found = hessian(loss=loss, theta=theta)" in capsys.readouterr().out
    run_record(problem_target=path, problem_options=options, seed=1)
    assert command.main([str(tmp_path / "run")]) == 2
    assert "2 records match; choose one with --where seed=0|1" in capsys.readouterr().err
    assert command.main([str(tmp_path / "run"), "--where", "seed=1", "mode=null"]) == 0
    assert "found = hessian(loss=loss, theta=theta)" in capsys.readouterr().out
    assert command.main([str(tmp_path / "run"), "--where", "seed=2"]) == 2
    assert (
        "0 records match; name one with --of PROBLEM METHOD, such as mlp create_graph_rows" in capsys.readouterr().err
    )
    assert command.main([str(tmp_path / "run"), "--where", "sed=1"]) == 2
    assert "--where sed=1: write FIELD=VALUE" in capsys.readouterr().err
    assert command.main([str(tmp_path / "absent")]) == 2
    assert "absent does not exist" in capsys.readouterr().err


def test_a_custom_problem_is_named_by_its_function(tmp_path, capsys) -> None:
    for number, path in enumerate(("harness.problems.zoo.layers.layer", "nowhere.other")):
        entry = {
            "status": "ok",
            "quantity": "hessian",
            "problem": "custom",
            "method": "m",
            "problem_target": path,
            "problem_options": json.dumps(CASES["layer"][1]),
            "target": "methods.func_hessian.hessian",
            "method_options": "{}",
            "seed": 0,
        }
        record.write(entry, tmp_path / str(number) / "record.json")
    for name in ("layer", "harness.problems.zoo.layers.layer"):
        assert command.main([str(tmp_path), "--of", name, "m"]) == 0
        assert "def layer(" in capsys.readouterr().out
    assert command.main([str(tmp_path), "--of", "custom", "m"]) == 2
    assert "such as harness.problems.zoo.layers.layer m; nowhere.other m" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantity": "hvp"}, "quantity=hvp"),
        ({"problem_target": None}, "built by None"),
        ({"subset": 3}, "subset=3"),
        ({"quantity": "eigenvalues"}, "quantity=eigenvalues"),
        ({"wrt": "inputs", "per_sample": True}, "wrt=inputs per_sample=true"),
        ({"stated_error": 1e-6}, "states its error"),
        ({"problem_options": '{"name": "Nothing"}'}, "and raised"),
        ({"target": "methods.nowhere.hessian"}, "methods.nowhere is not to be found"),
        ({"problem_target": "harness.problems.networks.nothing"}, "nothing is not defined in the source"),
    ],
)
def test_what_cannot_be_reproduced_is_said(changes, words) -> None:
    path, options = CASES["layer"]
    seen = (
        dict.fromkeys(record.NAMES)
        | {
            "quantity": "hessian",
            "problem": "p",
            "method": "m",
            "problem_target": path,
            "seed": 0,
            "problem_options": json.dumps(options),
            "target": "methods.func_hessian.hessian",
            "method_options": "{}",
        }
        | changes
    )
    with pytest.raises(ReproduceError, match=re.escape(words)):
        script(seen, trusted=True)
