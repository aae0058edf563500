"""What was timed is what was checked: results of timed calls, and calls where the method has not been."""

import dataclasses
import hashlib
import itertools
import math

import pytest
import torch
from torch import nn

from harness.measure import clock
from harness.problems import Problem, from_function, from_network, functions, networks
from harness.problems.binding import BoundMethod, bind, vectors_of
from harness.truth import agreement, caching, moved_point, true_change
from harness.truth.result_recorder import ResultRecorder
from harness.truth.results import result_tensors
from harness.truth.sketch import bilinear
from harness.truth.timed_results import verdict
from methods.estimates import Estimate
from tests.conftest import JOB

NETWORK = networks.mlp(inputs=3, width=4, outputs=2, batch=8)


def cell(call, problem: Problem = NETWORK, **changes) -> BoundMethod:
    """A cell whose method is `call(cell)`, of this module's own."""
    job = dataclasses.replace(JOB, **changes)
    made = BoundMethod(job, problem, vectors_of(job, problem.theta), lambda: call(made))
    return made


def right(cell: BoundMethod):
    """The quantity of a cell, from the whole Hessian."""
    whole = torch.func.jacrev(torch.func.grad(cell.problem.loss))(cell.problem.theta)
    if cell.job.quantity == "block_diagonal":
        starts = itertools.accumulate(cell.problem.sizes, initial=0)
        return tuple(
            whole[at : at + size, at : at + size].clone() for at, size in zip(starts, cell.problem.sizes, strict=False)
        )
    if cell.vectors is not None:
        return whole @ cell.vectors
    return whole.diagonal().clone() if cell.job.quantity == "diagonal" else whole


def told(results, **changes) -> dict:
    """What a witness says of the results of a first call and of samples."""
    watched = ResultRecorder(cell(right, **changes))
    for result in results:
        watched.release()
        watched.see(result)
    return watched.fields()


def judged(results, checked, **changes) -> dict:
    """The verdict on results, of a cell in which `checked` was right."""
    tensors = result_tensors(checked)
    seen = {"status": "ok", "tolerance": agreement.TOLERANCE[tensors[0].dtype]}
    checked = {"numbers": bilinear(tensors), "size": changes.pop("size", None)}
    return verdict(seen | changes.pop("seen", {}), told(results, **changes), checked)


# Results


@pytest.mark.parametrize("quantity", ["hessian", "diagonal", "hvp", "block_diagonal"])
def test_the_same_result_is_believed_and_another_is_not(quantity: str) -> None:
    result = right(cell(right, quantity=quantity))
    scaled = tuple(1.001 * part for part in result) if isinstance(result, tuple) else 1.001 * result
    assert judged([result] * 4, result, quantity=quantity) == {}
    for results, words in (
        ([scaled] * 4, "the first timed call returned another result"),
        ([result, result, result, scaled], "the last timed call returned another result"),
        ([result, scaled, scaled, result], "2 of 4 timed calls returned another result"),
    ):
        seen = judged(results, result, quantity=quantity)
        assert (seen["status"], words in seen["message"]) == ("wrong", True), seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_is_believed(dtype: torch.dtype) -> None:
    result = right(cell(right))
    problem = NETWORK.to("cpu", dtype)
    noise = torch.randn(result.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = (result * (1 + torch.finfo(dtype).eps * noise)).to(dtype)
    assert judged([result.to(dtype), other, other], result.to(dtype), problem=problem) == {}
    zeros = torch.zeros_like(other)
    assert judged([result.to(dtype), zeros, other], result.to(dtype), problem=problem)["status"] == "wrong"


def test_one_wrong_row_or_entry_is_found() -> None:
    result = right(cell(right))
    row, entry, swapped = result.clone(), result.clone(), result.clone()
    row[3] = 0
    entry[5, 5] += result.norm() / 1000
    swapped[[0, 1]] = result[[1, 0]]
    for wrong in (row, entry, swapped, result.T.roll(1), torch.full_like(result, torch.nan), -result):
        assert judged([result, wrong, result], result)["status"] == "wrong"


def test_zeros_are_compared_with_the_size_of_what_cancels() -> None:
    zeros, noise = torch.zeros(26, 26, dtype=torch.float64), torch.full((26, 26), 1e-18, dtype=torch.float64)
    assert judged([zeros, noise, zeros], zeros) == {}
    assert judged([noise, -noise], noise, size=1.0) == {}
    assert judged([noise, -noise], noise)["status"] == "wrong"
    assert judged([zeros, zeros + 1e-3], zeros, size=1.0)["status"] == "wrong"


def test_estimates_may_differ_by_their_standard_errors() -> None:
    true = right(cell(right, quantity="diagonal"))
    noise = torch.randn(3, len(true), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    error = true.abs().mean() / 10
    draws = [Estimate(true + error * draw, error.expand(len(true)), 10) for draw in noise]
    tolerance = float(4 * error * len(true) ** 0.5 / true.norm())
    options = {"quantity": "diagonal", "seen": {"tolerance": tolerance}}
    assert judged(draws, draws[0], **dict(options)) == {}
    far = Estimate(true + 100 * error, error.expand(len(true)), 10)
    assert judged([*draws, far], draws[0], **dict(options))["status"] == "wrong"


@pytest.mark.parametrize("wrong", [None, [1.0], torch.ones(3), torch.ones(26, 26), torch.ones(26, 26).to_sparse()])
def test_a_later_result_of_another_kind(wrong) -> None:
    result = right(cell(right))
    seen = judged([result, wrong, result], result)
    assert (seen["status"], "in sample 1 of those that are timed" in seen["message"]) == ("wrong", True)
    assert told([wrong, wrong]) == {}, "if the first call is at fault, the agreement pass says so"


def test_without_a_check_nothing_is_said_but_of_faults() -> None:
    result = right(cell(right))
    assert verdict({"status": "ok"}, told([result, 2 * result]), None) == {}
    assert verdict({"status": "ok"}, told([result, None]), None)["status"] == "wrong"
    assert verdict({"status": "ok"}, {}, {"numbers": bilinear([result]), "size": None}) == {}


def test_the_watcher_sees_every_sample_and_holds_one_result() -> None:
    class Counting:
        seen = held = most = 0

        def see(self, result) -> None:
            self.seen, self.held = self.seen + 1, self.held + 1
            self.most = max(self.most, self.held)

        def release(self) -> None:
            self.held = 0

    watcher = Counting()
    measure = dataclasses.replace(JOB.measure, min_samples=7, max_samples=7)
    samples = clock.sample(lambda: 0, torch.device("cpu"), measure, 1.0, 1e-3, watcher)
    assert (watcher.seen, watcher.most) == (len(samples.times_s), 1)


# Points where the method has not been


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch):
    """A clock that stands still but for what calls add to it."""
    now = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])

    def add(seconds: float) -> None:
        now[0] += seconds

    return add


def fault(call, problem: Problem = NETWORK, usual_s: float = 1e-3, left_s: float = 100.0, **changes):
    """What is found of a method after its samples, each of which took `usual_s`."""
    made = cell(call, problem, **changes)
    watched = ResultRecorder(made)
    watched.see(made.call())
    return drained(caching.fault(made, [usual_s] * 5, watched.last, left_s))[1]


def drained(steps):
    """What a generator yields, and what it returns."""
    yielded = []
    while True:
        try:
            yielded.append(next(steps))
        except StopIteration as end:
            return yielded, end.value


def by_identity(kept: dict):
    def call(cell: BoundMethod):
        return (
            kept.setdefault(id(cell.problem.theta), right(cell))
            if id(cell.problem.theta) not in kept
            else (kept[id(cell.problem.theta)])
        )

    return call


def by_hash(kept: dict, add, computing_s: float = 1e-2, reading_s: float = 1e-3, longest: int = 100):
    def call(cell: BoundMethod):
        key = hashlib.sha256(cell.problem.theta.numpy().tobytes()).hexdigest()
        add(reading_s)
        if key not in kept:
            add(computing_s)
            while len(kept) >= longest:
                kept.pop(next(iter(kept)))
            kept[key] = right(cell)
        return kept[key]

    return call


@pytest.mark.parametrize("quantity", ["hessian", "diagonal", "hvp", "block_diagonal"])
def test_a_result_that_is_kept_by_identity_is_stale(quantity: str) -> None:
    found = fault(by_identity({}), quantity=quantity)
    assert found is not None
    assert (found["status"], "kept from an earlier call" in found["message"]) == ("wrong", True)


@pytest.mark.parametrize("fault_of", ["rounded", "scaled", "random", "nan"])
def test_a_hessian_that_does_not_follow_the_true_one_is_wrong(fault_of: str) -> None:
    kept = {}

    def call(cell: BoundMethod):
        first = kept.setdefault("theta", cell.problem.theta.clone())
        true = kept.setdefault("result", right(cell))
        if torch.equal(first, cell.problem.theta):
            return true
        noise = torch.rand(true.shape, generator=torch.Generator().manual_seed(1), dtype=true.dtype)
        return {"rounded": true * (1 + 1e-15 * noise), "scaled": true + 1e-9, "random": noise, "nan": true * math.nan}[
            fault_of
        ]

    assert fault(call)["status"] == "wrong"


def test_a_network_that_is_read_once_is_stale() -> None:
    """From the model's own parameters, once for all."""
    kept = []

    def call(cell: BoundMethod):
        kept.append(right(cell))
        return kept[0]

    assert fault(call)["status"] == "wrong"


@pytest.mark.parametrize("longest", [1, 2, 100])
def test_a_result_that_is_kept_by_value_is_found_by_its_time(ticking, longest: int) -> None:
    found = fault(by_hash({}, ticking, longest=longest))
    assert found is not None
    assert found["status"] == "error"
    assert "took 1.0e-03 s, but 1.1e-02 s at a point where it had not been, and 1.0e-03 s" in found["message"]


def test_what_computes_is_believed(ticking) -> None:
    def call(cell: BoundMethod):
        ticking(1e-3)
        return right(cell)

    assert fault(call) is None


def test_a_machine_under_load_is_no_cache(ticking) -> None:
    """Every call takes ten times as long as when it was sampled; or every second one."""
    for loads in ([1e-2], [1e-2, 1e-3], [1e-2, 1e-2, 1e-2, 1e-3]):
        waits = itertools.cycle(loads)

        def call(cell: BoundMethod, waits=waits):
            ticking(next(waits))
            return right(cell)

        assert fault(call) is None


@pytest.mark.parametrize(
    "problem",
    [
        functions.quadratic(),
        from_function(lambda x: (x**2).sum(), torch.ones(3, dtype=torch.float64)),
        from_network(nn.Linear(3, 2).double(), nn.MSELoss(), torch.ones(4, 3).double(), torch.zeros(4, 2).double()),
    ],
    ids=["quadratic", "squares", "linear regression"],
)
def test_a_constant_hessian_is_not_stale(problem: Problem) -> None:
    assert fault(right, problem) is None
    constant = right(cell(right, problem))
    assert fault(lambda _: constant, problem) is None


def test_what_runs_is_told_before_and_after_each_call_of_the_method(monkeypatch) -> None:
    """The true change is looked for as the harness's own work, which no time-out may hold against the method."""
    running = [caching.HARNESS_RUNS["running"]]
    during = {"call": set(), "own": set()}

    def call(cell: BoundMethod):
        during["call"].add(running[-1])
        return torch.eye(4, dtype=torch.float64)

    changed = true_change.true_result_changed
    monkeypatch.setattr(
        caching, "true_result_changed", lambda *given: during["own"].add(running[-1]) or changed(*given)
    )
    problem = from_function(lambda x: (x**2).sum() / 2, torch.ones(4, dtype=torch.float64))
    made = cell(call, problem)
    watched = ResultRecorder(made)
    watched.see(right(made))
    for step in caching.fault(made, [1e-3], watched.last, 100.0):
        running.append(step["running"])
    assert during == {"call": {caching.METHOD_RUNS["running"]}, "own": {caching.HARNESS_RUNS["running"]}}


def test_no_change_is_seen_without_time_and_one_way_alone_is_not_believed() -> None:
    problem = from_function(lambda x: (x**4).sum(), torch.ones(3, dtype=torch.float64))
    made = cell(right, problem)
    with moved_point.moved(problem) as move:
        assert true_change.true_result_changed(made, move, math.inf)
        assert not true_change.true_result_changed(made, move, -math.inf)
    theta = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    detached = from_function(lambda x: (x**2 * x.detach() ** 2).sum(), torch.ones(3, dtype=torch.float64))
    kink = from_function(lambda x: (x * x.abs()).sum(), torch.ones(3, dtype=torch.float64))  # constant on each side
    zero = from_function(lambda x: x.exp().log().sum() + x.sin().square().sum() + x.cos().square().sum(), theta)
    for other, expected in ((detached, True), (kink, False), (zero, False)):
        with moved_point.moved(other) as move:
            assert true_change.true_result_changed(cell(right, other), move, math.inf) == expected


def test_a_constant_diagonal_beside_changing_entries_is_not_stale() -> None:
    problem = from_function(lambda x: x.prod(), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert fault(right, problem, quantity="diagonal") is None
    assert fault(by_identity({}), problem, quantity="diagonal") is None
    assert fault(by_identity({}), problem)["status"] == "wrong"


def test_nothing_is_asked_outside_the_domain_or_without_time() -> None:
    edge = from_function(lambda x: x.sqrt().sum(), torch.zeros(3, dtype=torch.float64))
    assert fault(by_identity({}), edge) is None
    assert fault(by_identity({}), left_s=1e-3) is None
    assert fault(by_identity({}), usual_s=2 * caching.LONGEST_S, left_s=1e6) is None


def test_a_method_that_raises_elsewhere() -> None:
    start = NETWORK.theta.clone()

    def call(cell: BoundMethod):
        if not torch.equal(cell.problem.theta, start):
            raise ValueError("only here")
        return right(cell)

    found = fault(call)
    assert (found["status"], "only here" in found["message"]) == ("error", True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_moved_together_and_put_back(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    model[0].bias.requires_grad_(False)
    problem = from_network(model, nn.CrossEntropyLoss(), torch.ones(4, 3), torch.tensor([0, 1, 0, 1])).to("cpu", dtype)
    before = {name: tensor.clone() for name, tensor in problem.model.state_dict().items()}
    theta = problem.theta.clone()
    with moved_point.moved(problem):
        assert not torch.equal(problem.theta, theta)
        own = problem.criterion(problem.model(problem.inputs), problem.targets)
        torch.testing.assert_close(problem.loss(problem.theta), own)
    assert torch.equal(problem.theta, theta)
    assert all(torch.equal(tensor, before[name]) for name, tensor in problem.model.state_dict().items())


@pytest.mark.parametrize("target", ["hessian_eigenthings", "curvlinops"])
def test_other_libraries_compute(target: str) -> None:
    pytest.importorskip(target)
    made = bind(dataclasses.replace(JOB, target=f"methods.peers.{target}.hessian"), NETWORK)
    watched = ResultRecorder(made)
    watched.see(made.call())
    assert drained(caching.fault(made, [1.0], watched.last, 100.0))[1] is None


def test_no_move_is_made_twice_even_of_one_parameter() -> None:
    """Of equal moves the true results are equal too, and a right method would pass for a cache."""
    problem = functions.quadratic(size=1)
    moves = []
    for _ in range(50):
        with moved_point.moved(problem) as move:
            moves.append(float(move))
    assert len(set(moves)) == 50
