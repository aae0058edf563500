"""The job: what the configuration must be, and the name of a cell."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from harness.config import ConfigError
from harness.job import Job
from harness.problems.method_source import provenance

CONFIG = {
    "problem": {"_target_": "a.problem", "width": 3},
    "method": {"_target_": "a.method", "chunk_size": None},
    "quantity": "hessian",
    "vectors": 1,
    "subset": None,
    "wrt": "parameters",
    "per_sample": False,
    "parameters": None,
    "k": 10,
    "damping": 0.01,
    "device": "cuda:1",
    "dtype": "float32",
    "threads": 2,
    "processes": 1,
    "mode": "deterministic",
    "allocator": "tuned",
    "seed": 0,
    "round": 0,
    "interpreter": None,
    "code": None,
    "limit_s": 3,
    "memory_limit_gb": 1,
    "passes": ["time", "exact"],
    "measure": {
        "precision": 0.1,
        "truth": "autograd",
        "budget_s": 1.0,
        "min_samples": 1,
        "max_samples": 2,
        "full_up_to": 1,
        "probes": 1,
        "rows": 1,
    },
    "output": "somewhere",
}


def test_a_configuration_becomes_a_job_and_back() -> None:
    job = Job.from_config(CONFIG, "mine", "yours")
    assert (job.problem, job.problem_target, job.problem_options) == ("mine", "a.problem", {"width": 3})
    assert (job.method, job.target, job.method_options) == ("yours", "a.method", {"chunk_size": None})
    assert Job.from_dict(json.loads(json.dumps(asdict(job)))) == job


@pytest.mark.parametrize("stated", [True, False, None])
def test_what_is_stated_of_a_stop_gradient_is_part_of_the_cell_and_no_option_of_the_builder(stated) -> None:
    said = CONFIG | {"problem": CONFIG["problem"] | {"stop_gradient": stated}}
    plain, job = Job.from_config(CONFIG, "mine", "yours"), Job.from_config(said, "mine", "yours")
    assert (job.stop_gradient, job.builder_options) == (stated, {"width": 3})
    assert (job.key == plain.key) == (stated is None)
    assert ("stop_gradient" in job.fields()["problem_options"]) == (stated is not None)
    assert Job.from_dict(json.loads(json.dumps(asdict(job)))) == job


def test_batches_are_part_of_the_cell_and_of_its_source_and_no_options_of_the_builder() -> None:
    several = CONFIG["problem"] | {"batches": 3, "batch_weights": "mean"}
    plain, job = (Job.from_config(CONFIG | {"problem": p}, "a", "b") for p in (CONFIG["problem"], several))
    assert (job.batches, job.batch_weights, job.builder_options) == (3, "mean", {"width": 3})
    assert (plain.batches, plain.batch_weights, plain.builder_options) == (None, None, {"width": 3})
    factored = {"target": "methods.factored.hessian"}
    one, other = (replace(each, **factored, problem_target="harness.problems.networks.mlp") for each in (plain, job))
    assert provenance(one)["method_hash"] != provenance(other)["method_hash"]
    mine = replace(plain, **factored, problem_target="mine.problem")  # which may be of batches itself
    assert provenance(mine)["method_hash"] == provenance(other)["method_hash"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"threads": 0}, "threads=0 must be a whole number of at least 1"),
        ({"threads": True}, "threads=True"),
        ({"passes": ["time", "speed"]}, "must be a list of some of time, exact, process, agreement"),
        ({"subset": 0}, "subset=0 must be a whole number of at least 1, or null"),
        ({"damping": float("inf")}, "damping=inf must be a number from 0 to 1e30"),
        ({"k": 0}, "k=0 must be a whole number of at least 1"),
        ({"wrt": "outputs"}, "wrt=outputs is not known; choose one of parameters, inputs"),
        ({"parameters": []}, "must be a pattern of parameters' names"),
        ({"passes": []}, "passes=[] must be"),
        ({"passes": "time"}, "passes=time must be a list"),
        ({"measure": CONFIG["measure"] | {"truth": "guess"}}, "choose one of autograd, differences"),
        ({"threads": "two"}, "threads=two"),
        ({"seed": -1}, "seed=-1"),
        ({"problem": CONFIG["problem"] | {"stop_gradient": "yes"}}, "problem.stop_gradient=yes must be true"),
        ({"problem": CONFIG["problem"] | {"batches": 0}}, "problem.batches=0 must be a whole number of at least 1, or"),
        (
            {"problem": CONFIG["problem"] | {"batch_weights": "max"}},
            "problem.batch_weights=max is not known; choose one",
        ),
        ({"dtype": "float8"}, "choose one of float64, float32"),
        ({"allocator": "jemalloc"}, "choose one of default, tuned"),
        ({"quantity": "curvature"}, "choose one of hessian, diagonal, block_diagonal, hvp, ggn"),
        ({"device": "tpu"}, "choose cpu, cuda or cuda:N"),
        ({"limit_s": 0}, "limit_s=0"),
        ({"limit_s": "soon"}, "limit_s=soon"),
        ({"limit_s": float("nan")}, "limit_s=nan"),
        ({"memory_limit_gb": 0}, "memory_limit_gb=0"),
        ({"interpreter": 3}, "interpreter=3"),
        ({"problem": {"_target_": "???"}}, "set problem._target_="),
        ({"method": {}}, "set method._target_="),
        ({"measure": {**CONFIG["measure"], "probes": -1}}, "measure.probes=-1"),
        ({"measure": {**CONFIG["measure"], "rows": 0}}, "measure.rows=0 must be a whole number of at least 1"),
        ({"measure": {**CONFIG["measure"], "max_samples": 1.5}}, "measure.max_samples=1.5 must be a whole number"),
        ({"measure": {**CONFIG["measure"], "budget_s": float("nan")}}, "measure.budget_s=nan"),
        ({"seed": 10**20}, "seed=100000000000000000000 must be a whole number of at least 0 and less than 2^62"),
        ({"measure": {**CONFIG["measure"], "probe": 1}}, "measure.probe: no such key; the keys are budget_s, "),
    ],
)
def test_a_bad_value_is_named(change: dict, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        Job.from_config(CONFIG | change, "p", "m")
    assert words in str(error.value)


def test_the_key_changes_with_every_field() -> None:
    job = Job.from_config(CONFIG, "mine", "your/s")
    changes = [{"seed": 1}, {"round": 1}, {"dtype": "float64"}, {"method": {"_target_": "a.method"}}]
    keys = {Job.from_config(CONFIG | change, "mine", "your/s").key for change in changes}
    assert job.key.startswith("mine-your_s-hessian-")
    assert len(keys | {job.key}) == 5


# A new key `colour`: where it is written, after which line, and what.
NEW_KEY = (
    ("conf/config.yaml", "threads: 1\n", "colour: red # red or blue\n"),
    (
        "harness/job.py",
        "    threads: Annotated[int, whole(1)]\n",
        "    colour: Annotated[str, one_of(('red', 'blue'))]\n",
    ),
    (
        "harness/record/schema.py",
        '"intra-operation threads of torch", part="setting"),\n',
        "    Field('colour', 'str', '', 'red or blue', part='setting'),\n",
    ),
)
PROGRAM = """
import sys
from harness import record
from harness.analysis.table import Analysis
from harness.compare.verdicts import compare
from harness.report.readable import readable

frame = record.load(sys.argv[1])
red, blue = frame[frame["colour"] == "red"], frame[frame["colour"] == "blue"]
print(len(Analysis(frame).cells), len(compare(frame, frame)), len(compare(red, blue)))
print(*readable(Analysis(frame)).columns, sep=",")
"""


def test_a_new_key_is_written_in_three_places(tmp_path: Path) -> None:
    """It is then checked, recorded, shown where it differs, and makes a cell in reports and comparisons."""
    root = Path(__file__).parent.parent
    for name in ("conf", "harness", "methods"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, line, added in NEW_KEY:
        text = (tmp_path / name).read_text()
        assert text.count(line) == 1
        (tmp_path / name).write_text(text.replace(line, line + added))

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True)

    cell = ["-m", "harness", "-m", "problem=quadratic", "method=create_graph_rows", "passes=[agreement]"]
    refused = run(*cell, "colour=green", "output=refused")
    assert "colour=green is not known; choose one of red, blue" in refused.stderr
    done = run(*cell, "colour=red,blue", "output=run")
    assert done.returncode == 0, done.stderr
    cells, headings = run("-c", PROGRAM, "run").stdout.splitlines()
    assert cells == "2 2 0"
    assert "colour" in headings.split(",")
