"""A loss over a data set in batches: equal to one batch of all samples, or refused by name."""

import functools
import itertools
import weakref
from unittest import mock

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from harness.job import QUANTITIES
from harness.measure import memory
from harness.problems import ProblemError, from_batches, from_function, from_network, networks, split, subset
from harness.problems.batches import batches_of
from harness.problems.binding import NOT_ADDITIVE, bind
from harness.truth.kinds import kind_of
from methods import batches, create_graph_rows, factored, func_hessian, hutchinson, vmap_ggn, vmap_hvp
from methods.batching.divisors import BROADCASTING, DIVISORS, FUNCTIONS, divisor_of
from methods.factoring import products
from methods.factoring.certificate import FallbackError, FallbackWarning
from methods.factoring.shard import Rows
from methods.factoring.sums import Sum, write_products
from tests.oracles import central_differences, distance
from tests.rows import PER_SAMPLE, ROWS, SHARDED, bound, target
from tests.test_methods import CRASHES, PROBLEMS
from tests.test_zoo import CASES, case

pytestmark = pytest.mark.usefixtures("matrix_products")

SLOW_ROWS = ("double_loop", "double_loop_no_create_graph", "naive_loop")  # for one matrix, or a day
OWN = sorted(
    row
    for row in ROWS
    if target(row, "hessian")[0].startswith("methods.")
    and not target(row, "hessian")[0].startswith("methods.peers.")
    and not row.endswith("_compiled")
    and row not in SLOW_ROWS
    and row not in SHARDED | PER_SAMPLE
)
QUICK = ["create_graph_rows", "factored", "func_hessian", "vmap_ggn", "vmap_hvp"]  # rows that are tested by default

# Networks of the zoo that cannot be split, and words of the refusal.
REFUSED = {
    "batch_norm_2d_untracked": r"statistics of the batch \(in 1\)",
    "batch_norm_train": r"statistics of the batch \(in 1\)",
    "batch_norm_untracked": r"statistics of the batch \(in 1\)",
    "batch_norm_untracked_plain": r"statistics of the batch \(in 1\)",
    "ctc_loss": r"there are 6 samples, and a tensor \(2,\) beside them",
    "dropout_seeded": "samples depend on each other",
}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(*shape, classes=4):
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(0))


def network(samples=11):
    """A perceptron of four classes, with its inputs."""
    layers = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4))
    return networks.draw_parameters(layers, torch.Generator().manual_seed(0)), draw(samples, 3, seed=1)


def in_parts(*tensors, sizes=(4, 4, 3)):
    return list(zip(*(tensor.split(list(sizes)) for tensor in tensors), strict=True))


def flat(result):
    return torch.cat([part.flatten() for part in result]) if isinstance(result, tuple) else result


# Criteria


CLASS_WEIGHTS = torch.tensor([0.2, 3.0, 1.0, 0.0], dtype=torch.float64)
IGNORED = torch.tensor([0, 1, 2, 3, -100, 1, -100, 1, 0, -100, 2])
POSITIONS = torch.where(draw(11, 5, seed=2) > 0.5, -100, labels(11, 5))
BITS = (draw(11, 4) > 0).double()
CRITERIA = [
    *itertools.product([nn.CrossEntropyLoss], [{}, {"weight": CLASS_WEIGHTS}], [labels(11), IGNORED]),
    (nn.CrossEntropyLoss, {"label_smoothing": 0.2}, IGNORED),
    (nn.CrossEntropyLoss, {"label_smoothing": 0.2, "weight": CLASS_WEIGHTS}, IGNORED),
    (nn.CrossEntropyLoss, {"ignore_index": 1, "weight": CLASS_WEIGHTS}, labels(11)),
    (nn.CrossEntropyLoss, {"weight": CLASS_WEIGHTS, "label_smoothing": 0.2}, draw(11, 4, seed=3).softmax(1)),
    (nn.CrossEntropyLoss, {"weight": CLASS_WEIGHTS}, POSITIONS),
    (nn.CrossEntropyLoss, {"weight": CLASS_WEIGHTS}, draw(11, 4, 5, seed=3).softmax(1)),
    *itertools.product([nn.NLLLoss], [{}, {"weight": CLASS_WEIGHTS}], [IGNORED, POSITIONS]),
    (nn.NLLLoss, {"ignore_index": 1, "weight": CLASS_WEIGHTS}, labels(11)),
    *[(kind, {}, draw(11, 4, seed=3)) for kind in (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)],
    (nn.MSELoss, {}, draw(11, 4, 5, seed=3)),
    (nn.PoissonNLLLoss, {}, labels(11, 4).double()),
    (nn.PoissonNLLLoss, {"full": True}, labels(11, 4).double()),
    (nn.BCELoss, {}, BITS),
    (nn.BCELoss, {"weight": CLASS_WEIGHTS}, BITS),
    (nn.BCEWithLogitsLoss, {}, BITS),
    (nn.BCEWithLogitsLoss, {"weight": CLASS_WEIGHTS, "pos_weight": CLASS_WEIGHTS + 1}, BITS),
    (nn.HingeEmbeddingLoss, {}, 2 * BITS - 1),
    (nn.SoftMarginLoss, {}, 2 * BITS - 1),
    (nn.MultiLabelMarginLoss, {}, torch.tensor([[0, 2, -1, -1]] * 11)),
    (nn.MultiLabelSoftMarginLoss, {}, BITS),
    (nn.MultiLabelSoftMarginLoss, {"weight": CLASS_WEIGHTS}, BITS),
    (nn.MultiMarginLoss, {}, labels(11)),
    (nn.MultiMarginLoss, {"weight": CLASS_WEIGHTS}, labels(11)),
    (nn.KLDivLoss, {"log_target": True}, draw(11, 4, seed=3).log_softmax(1)),
    (nn.KLDivLoss, {"log_target": True, "reduction": "batchmean"}, draw(11, 4, seed=3).log_softmax(1)),
]


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss:UserWarning")
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("place", range(len(CRITERIA)))
def test_the_weights_of_batches_follow_from_torchs_criteria(place: int, reduction: str) -> None:
    kind, options, targets = CRITERIA[place]
    criterion = kind(**{"reduction": reduction} | options)
    outputs = draw(11, 4, 5) if targets.dim() == 3 or targets is POSITIONS else draw(11, 4)
    outputs = outputs.sigmoid() if kind is nn.BCELoss else outputs
    outputs = outputs.log_softmax(1) if kind in (nn.NLLLoss, nn.KLDivLoss) else outputs
    parts, divisor = in_parts(outputs, targets), divisor_of(criterion, None)
    divisors = [1.0 if divisor is None else divisor(None, part) for _, part in parts]
    assert (divisor is None) == (criterion.reduction == "sum")
    losses = [criterion(*part) for part in parts]
    total = 1.0 if divisor is None else sum(divisors)
    found = sum(share / total * loss for share, loss in zip(divisors, losses, strict=True) if share)
    assert found == pytest.approx(float(criterion(outputs, targets)), rel=1e-13)


def test_every_criterion_of_two_arguments_is_known() -> None:
    assert {kind for kind, *_ in CRITERIA} == DIVISORS.keys() == set(FUNCTIONS.values())
    for function, kind in FUNCTIONS.items():
        assert function is getattr(functional, function.__name__)
        assert kind().reduction == "mean", "which is the function's default too"


@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")
def test_targets_that_a_criterion_broadcasts_are_refused() -> None:
    model, inputs = network()
    examples = {kind: (options, targets) for kind, options, targets in CRITERIA if targets.shape == (11, 4)}
    assert examples.keys() > BROADCASTING
    for kind, (options, targets) in examples.items():
        criterion, column = kind(**options), targets[:, :1]
        if kind not in BROADCASTING:
            with pytest.raises((RuntimeError, ValueError)):
                criterion(draw(11, 4).sigmoid(), column)
            continue
        assert criterion(draw(11, 4), column).dim() == 0
        with pytest.raises(ValueError, match=f"of which {kind.__name__} would broadcast"):
            batches.diagonal(create_graph_rows, model, criterion, [(inputs, column)])
    parts = [(inputs, draw(11, 4)), (inputs, draw(11, 1))]
    with pytest.raises(
        ValueError, match=r"outputs of a batch are \(11, 4\) and its targets \(11, 1\), of which mse_loss"
    ):
        batches.diagonal(create_graph_rows, model, functional.mse_loss, parts)


# Results


@pytest.mark.parametrize("targets", [labels(11), IGNORED], ids=["all", "ignored"])
@pytest.mark.parametrize("options", [{}, {"weight": CLASS_WEIGHTS}, {"weight": CLASS_WEIGHTS, "reduction": "sum"}])
def test_a_hessian_over_a_loader_is_that_of_all_samples(options, targets) -> None:
    model, inputs = network()
    criterion = nn.CrossEntropyLoss(**options)
    whole = from_network(model, criterion, inputs, targets)
    true, done = create_graph_rows.hessian(whole.loss, whole.theta), []
    assert distance(central_differences(whole), true) < 1e-8
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=4)
    for method in (factored, vmap_hvp):
        found = batches.hessian(method, model, criterion, loader, progress=lambda *state: done.append(state))
        assert distance(found, true) < 1e-12
    assert done == [(1, 3), (2, 3), (3, 3)] * 2
    vectors = draw(len(whole.theta), 2)
    assert distance(batches.hvp(factored, model, criterion, loader, vectors), true @ vectors) < 1e-12
    assert distance(batches.diagonal(factored, model, criterion, loader), true.diagonal()) < 1e-12
    blocks = batches.block_diagonal(vmap_hvp, model, criterion, loader)
    assert [len(block) for block in blocks] == list(whole.sizes)
    assert distance(blocks[2], true[16:32, 16:32]) < 1e-12
    ggn = vmap_ggn.ggn(model, criterion, inputs, targets)
    assert distance(batches.ggn(vmap_ggn, model, criterion, loader), ggn) < 1e-12


def test_a_batch_in_which_no_target_counts_is_passed_over() -> None:
    model, inputs = network()
    targets = labels(11)
    targets[4:8] = -100
    criterion = nn.CrossEntropyLoss()
    found = batches.hessian(factored, model, criterion, in_parts(inputs, targets))
    assert distance(found, factored.hessian(model, criterion, inputs, targets)) < 1e-12


def test_a_model_that_computes_its_own_loss() -> None:
    """As Hugging Face's do from labels, of which some do not count."""
    inner, inputs = network()

    class Labelled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, inputs, labels):
            return {"loss": functional.cross_entropy(self.inner(inputs), labels)}

    whole = {"inputs": inputs, "labels": IGNORED}
    parts = [{"inputs": one, "labels": other} for one, other in in_parts(inputs, IGNORED)]
    found = batches.hessian(factored, Labelled(), None, parts, weights=lambda batch, _: (batch["labels"] >= 0).sum())
    assert distance(found, factored.hessian(Labelled(), None, whole, None)) < 1e-12
    with pytest.raises(NotImplementedError, match=r"its mean does not divide by what was assumed: weights= may be"):
        batches.hessian(factored, Labelled(), None, parts, weights="mean")
    with pytest.raises(ValueError, match=r"the criterion NoneType is none of torch\.nn"):
        batches.hessian(factored, Labelled(), None, parts)


def test_half_precision_is_added_up_in_float32() -> None:
    """A thousand equal batches: in bfloat16 the sum would stop growing at 256 of them."""
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    batch = torch.ones(2, 1, dtype=torch.bfloat16), torch.zeros(2, 1, dtype=torch.bfloat16)
    given = create_graph_rows, model, nn.MSELoss(reduction="sum"), [batch] * 1000
    found = batches.hessian(*given)
    assert found.dtype == torch.bfloat16
    assert float(found) == pytest.approx(4000, rel=0.01)
    out = torch.empty(1, 1)
    assert batches.hessian(*given, out=out) is out
    assert float(out) == 4000


@pytest.mark.parametrize("method", [create_graph_rows, factored, func_hessian, vmap_hvp])
def test_the_sum_is_written_into_out(method, tmp_path) -> None:
    """Whether the method has such an option or not."""
    model, inputs = network()
    true = factored.hessian(model, nn.CrossEntropyLoss(), inputs, labels(11))
    mapped = numpy.memmap(tmp_path / "sum", dtype=numpy.float64, mode="w+", shape=tuple(true.shape))
    out = torch.from_numpy(mapped).fill_(torch.nan)
    parts = in_parts(inputs, labels(11))
    found = batches.hessian(method, model, nn.CrossEntropyLoss(), parts, out=out)
    assert found is out
    assert distance(torch.from_numpy(numpy.fromfile(tmp_path / "sum")).view_as(true), true) < 1e-12


def test_options_of_a_partial_function() -> None:
    model, inputs = network()
    given = model, nn.CrossEntropyLoss(), in_parts(inputs, labels(11))
    true = factored.hessian(model, nn.CrossEntropyLoss(), inputs, labels(11))
    for function in (functools.partial(vmap_hvp.hessian, chunk_size=3), functools.partial(factored.hessian)):
        assert distance(batches.summed(function, *given), true) < 1e-12
    out = torch.zeros_like(true)
    assert batches.summed(functools.partial(vmap_hvp.hessian, out=out), *given) is out
    assert distance(out, true) < 1e-12
    with pytest.raises(ValueError, match="found much"):
        batches.summed(functools.partial(vmap_hvp.hessian, chunk_size=3), *given, chunk_size="much")


def test_parts_of_other_sizes_than_the_parameters() -> None:
    model, inputs = network()
    parts = in_parts(inputs, labels(11))
    blocks = batches.block_diagonal(vmap_hvp, model, nn.CrossEntropyLoss(), parts, sizes=(30, 6))
    true = factored.hessian(model, nn.CrossEntropyLoss(), inputs, labels(11))
    assert distance(blocks[0], true[:30, :30]) < 1e-12
    assert distance(blocks[1], true[30:, 30:]) < 1e-12


@pytest.mark.parametrize("method", [create_graph_rows, factored])
def test_at_most_two_batches_are_in_memory(method) -> None:
    alive, most = [], []

    def several():
        for index in range(6):
            inputs = draw(4, 3, seed=index)
            alive.append(weakref.ref(inputs))
            most.append(sum(batch() is not None for batch in alive))
            yield inputs, labels(4)
            del inputs

    def criterion(outputs, targets):
        return functional.cross_entropy(outputs, targets)

    batches.hessian(method, network()[0], criterion, several, weights="mean")
    assert max(most) == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda parts: parts,
        lambda parts: lambda: iter(parts),
        lambda parts: DataLoader(parts, batch_size=None),
        lambda parts: {"inputs": 0, "targets": 0} and tuple(parts),
    ],
)
def test_batches_may_be_whatever_can_be_gone_through_twice(make) -> None:
    model, inputs = network()
    parts = in_parts(inputs, labels(11))
    found = batches.diagonal(factored, model, nn.CrossEntropyLoss(), make(parts))
    assert distance(found, factored.diagonal(model, nn.CrossEntropyLoss(), inputs, labels(11))) < 1e-12


FORWARD_OF_ONE = "forward gradient that has a different size"  # torch's, of a recurrent layer and a batch of one


def own_cells(names, rows):
    """(row, quantity, problem, its result for one batch) where a method has one."""
    for name, row, quantity in itertools.product(names, rows, QUANTITIES):
        function, _ = bound(row, quantity)
        if function is not None and quantity not in NOT_ADDITIVE and (row, name) not in CRASHES:
            yield name, row, quantity


def require_equal(problem, row, quantity, job) -> None:
    """The result over three batches is that over one, whatever the method gives there."""
    path, name, options = target(row, quantity)
    asked = job(target=f"{path}.{name}", quantity=quantity, method_options=options)
    try:
        one = bind(asked, problem).call()
    except Exception:  # this method does not take this network, as other tests know
        return
    if kind_of(one) is not None:  # an estimate, or what states its error, is not added up
        return
    one = flat(one)
    if not one.isfinite().all():
        return
    whole = split(problem, 3, None if type(problem.criterion) in DIVISORS else "mean")
    try:
        many = flat(bind(asked, whole).call())
    except RuntimeError as error:
        if FORWARD_OF_ONE in str(error):
            return
        raise
    assert float((many - one).norm()) <= 1e-12 * float(one.norm()) + 1e-15, (row, quantity)


@pytest.mark.parametrize("name", ["mlp_layernorm", "cnn"])
def test_some_methods_over_batches(name, job) -> None:
    problem = PROBLEMS[name]()
    for _, row, quantity in own_cells([name], QUICK):
        require_equal(problem, row, quantity, job)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, build in PROBLEMS.items() if build().model is not None])
def test_every_method_over_batches(name, job) -> None:
    problem = PROBLEMS[name]()
    for _, row, quantity in own_cells([name], OWN):
        require_equal(problem, row, quantity, job)


@pytest.mark.parametrize("name", REFUSED)
def test_networks_of_the_zoo_that_cannot_be_split_are_refused(name, job) -> None:
    with pytest.raises((NotImplementedError, ProblemError), match=REFUSED[name]):
        bind(job(), split(case(name), 3)).call()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::methods.factoring.certificate.FallbackWarning")
@pytest.mark.parametrize("name", [name for name in CASES if name not in REFUSED])
def test_every_network_of_the_zoo_over_batches(name, job) -> None:
    problem = case(name)
    if problem.model is None:
        with pytest.raises(ProblemError, match="batches=3 cannot be had: the problem is a function"):
            split(problem, 3)
        return
    for _, row, quantity in own_cells([name], [row for row in OWN if row != "vmap_hvp_linearize"]):  # which may crash
        require_equal(problem, row, quantity, job)


# The factored method


def spoiling(calls):
    """`products.write`, of which some calls, by their number, write something else."""
    real, counter = products.write, itertools.count()

    def write(rows, *others):
        real(rows, *others)
        if next(counter) in calls:
            rows.entries[3, 5] += 1e-3

    return write


def test_products_that_fail_the_check_are_replaced_by_rows_over_all_batches() -> None:
    model, inputs = network()
    given = model, nn.CrossEntropyLoss(), in_parts(inputs, labels(11))
    true = factored.hessian(model, nn.CrossEntropyLoss(), inputs, labels(11))
    for calls in (
        [0],
        [4],
        [8],
    ):  # in the first, the second and the last batch; there are three pairs of layers in each
        with mock.patch("methods.factoring.hessian.write", spoiling(calls)):
            with pytest.warns(FallbackWarning, match=r"in 0.weight \(off by"):
                found = batches.hessian(factored, *given)
            assert distance(found, true) < 1e-12
        with (
            mock.patch("methods.factoring.hessian.write", spoiling(calls)),
            pytest.raises(FallbackError, match=r"not what double backward gives, in 0\.weight"),
        ):
            batches.hessian(factored, *given, fallback="error")


class Mixing(nn.Module):
    """A network whose samples depend on each other if the first input is positive."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        hidden = self.inner[0](x)
        return self.inner[2](torch.tanh(hidden + hidden.mean(0) if x[0, 0] > 0 else hidden))


@pytest.mark.parametrize("mixed", [[0], [1], [2], [0, 1, 2]])
def test_rows_that_a_single_batch_takes_are_taken_of_all(mixed) -> None:
    """The sum is that of such losses, whatever they have to do with samples."""
    inner, inputs = network()
    model = Mixing(inner)
    parts = in_parts(inputs.abs(), labels(11))
    for index, (part, _) in enumerate(parts):
        part[0, 0] *= 1 if index in mixed else -1
    one = [factored.hessian(model, nn.CrossEntropyLoss(), *part) for part in parts]
    criterion = nn.CrossEntropyLoss()
    found = factored.hessian_over_batches(model, [(criterion, *part) for part in parts])
    assert distance(found, sum(one)) < 1e-12
    with pytest.raises(FallbackError, match="samples depend on each other"):
        factored.hessian_over_batches(model, [(criterion, *part) for part in parts], fallback="error")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_tied_weights_penalties_and_positions_are_added_up(dtype) -> None:
    """Batches of one and of several positions write into the same blocks."""
    inner, _ = network()
    model = nn.Sequential(inner[0], nn.Tanh(), nn.Linear(4, 3), nn.Tanh(), inner[0], inner[2])
    model = networks.draw_parameters(model, torch.Generator().manual_seed(0)).to(dtype)

    def criterion(outputs, targets):
        return functional.mse_loss(outputs, targets) + model[2].weight.square().sum()

    given = [
        (criterion, draw(4, *size, 3, seed=len(size)).to(dtype), draw(4, *size, 4).to(dtype)) for size in ((), (2,))
    ]
    for order in (given, given[::-1], [*given, *given]):
        true = sum(factored.hessian(model, *batch) for batch in order)
        assert distance(factored.hessian_over_batches(model, order), true) < 100 * torch.finfo(dtype).eps


def test_one_matrix_is_in_memory() -> None:
    problem = networks.mlp(inputs=30, width=20, outputs=4, batch=18)
    parts = in_parts(problem.inputs, problem.targets, sizes=[4, 4, 4, 4, 2])
    given = factored, problem.model, problem.criterion

    def peak(count):
        def call():
            return batches.hessian(*given, parts[-count:], memory_mb=0)

        return memory.tensor_peak(call, torch.device("cpu"))["tensor_peak_bytes"]

    size = 8 * len(problem.theta) ** 2
    few, many = peak(2), peak(5)
    assert size < few < 1.9 * size
    assert many < few + 0.05 * size


# Refusals


def given(**changes):
    """Arguments of `batches.hessian`, with some in place of the usual ones."""
    model, inputs = network()
    usual = {"method": factored, "model": model, "criterion": nn.CrossEntropyLoss()}
    return {**usual, "batches": in_parts(inputs, labels(11)), **changes}


def changing(first, second):
    """A generator function that makes one list of batches at first, and then another."""
    several = iter([first, second, second])
    return lambda: iter(next(several))


PARTS = in_parts(network()[1], labels(11))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batches": iter(PARTS)}, "a list_iterator, which can be gone through only once: give a list, a DataLoader"),
        ({"batches": []}, "there are no batches"),
        ({"batches": changing(PARTS, PARTS[:2])}, "there were 3 batches when they were first gone through, and now 2"),
        ({"batches": changing(PARTS[:2], PARTS)}, "batch 2 is not what it was"),
        ({"batches": changing(PARTS, [PARTS[1], PARTS[0], PARTS[2]])}, "batch 0 is not what it was"),
        (
            {"batches": DataLoader(TensorDataset(network()[1], labels(11)), batch_size=4, shuffle=True)},
            r"batch \d is not what it was .* without shuffling",
        ),
        ({"batches": [(*PARTS[0], None)]}, "found tuple of 3: give several inputs as a tuple"),
        ({"batches": [3]}, "found int"),
        ({"batches": [("a", "b")]}, "the targets of CrossEntropyLoss must be a tensor; found str"),
        ({"batches": [(PARTS[0][0], torch.full((4,), -100))]}, "no target counts in any batch"),
        ({"criterion": lambda outputs, targets: 0.0}, "<lambda> is none of torch.nn .* give weights='mean'"),
        ({"criterion": type("Own", (nn.CrossEntropyLoss,), {})()}, "Own is none of torch.nn"),
        ({"criterion": nn.CrossEntropyLoss}, "the class CrossEntropyLoss, not a loss"),
        ({"weights": "median"}, "weights='median' must be 'mean', 'sum', a function"),
        ({"weights": lambda inputs, targets: -1.0}, "returned -1.0 for a batch; it must be a number of at least 0"),
        ({"weights": lambda inputs, targets: None}, "returned None for a batch; it must be a number of at least 0"),
        ({"batches": 3}, "the batches are a int: give a list, a DataLoader or a generator function"),
        ({"criterion": nn.CrossEntropyLoss(reduction="none")}, "the criterion CrossEntropyLoss has reduction='none'"),
        (
            {"criterion": lambda outputs, targets: outputs.square(), "weights": "sum"},
            r"the loss must be a scalar, a tensor of shape \(\); <lambda> gives a tensor \(4, 4\)",
        ),
        ({"criterion": lambda outputs, targets: 0.0, "weights": "sum"}, "must be a scalar, .*; <lambda> gives float"),
        (
            {"sizes": (3, 4)},
            r"methods.factored.hessian_over_batches cannot be called: .* 'sizes'; its options over batches are: out, m",
        ),
        ({"method": vmap_hvp, "vectors": draw(36, 1)}, r"methods.vmap_hvp.hessian cannot be called: .* 'vectors'"),
        ({"method": vmap_hvp, "theta": draw(36)}, r"multiple values for keyword argument 'theta'"),
        ({"out": draw(3, 3)}, r"out is \(3, 3\) torch.float64 cpu"),
        (
            {"method": vmap_hvp, "out": draw(3, 3)},
            r"out is \(3, 3\) .*; the sum over batches is \(36, 36\) torch.float64",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, words) -> None:
    with pytest.raises(ValueError, match=words):
        batches.hessian(**given(**change))


def test_functions_lack_no_arguments() -> None:
    change = given()
    del change["method"]
    with pytest.raises(ValueError, match=r"methods.vmap_hvp.hvp cannot be called: missing .* 'vectors'"):
        batches.summed(vmap_hvp.hvp, **change)
    with pytest.raises(ValueError, match=r"out is .*; the sum over batches is \(12, 12\) .*, \(4, 4\)"):
        batches.block_diagonal(vmap_hvp, **change, out=draw(36, 36))


@pytest.mark.parametrize("change", [lambda x: x.flip(1), lambda x: x.roll(1, 0), lambda x: x + (x == x[0, 0]) / 1e9])
def test_batches_that_change_are_refused(change) -> None:
    """Such as random flips, in which the entries are the same ones."""
    (_, inputs), targets = network(), labels(11)
    for first, second in (
        [(inputs, targets), (change(inputs), targets)],
        [(inputs, targets), (inputs, targets.flip(0))],
        [((inputs, 2.0), targets), ((inputs, 1.0), targets)],
    ):
        several = changing([first], [second])
        with pytest.raises(ValueError, match="batch 0 is not what it was"):
            batches.diagonal(**given(batches=several))


def with_module(module):
    model, _ = network()
    return nn.Sequential(model[0], module.double(), model[1], model[2])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": with_module(nn.BatchNorm1d(4))}, r"statistics of the batch \(in 1\): call model.eval"),
        ({"model": with_module(nn.BatchNorm1d(4, track_running_stats=False)).eval()}, r"statistics .* \(in 1\)"),
        ({"model": with_module(nn.Dropout())}, r"another one at each call: it draws random numbers \(in 1\)"),
        (
            {"criterion": lambda outputs, targets: outputs.logsumexp(0).sum(), "weights": "sum"},
            "samples depend on each other in the model or in the criterion <lambda>",
        ),
        ({"criterion": nn.CrossEntropyLoss(), "weights": "sum"}, "its mean does not divide by what was assumed"),
        ({"criterion": nn.CrossEntropyLoss(reduction="sum"), "weights": "mean"}, "its mean does not divide by"),
        ({"method": vmap_ggn}, "methods.vmap_ggn has no function hessian"),
        ({"method": hutchinson}, "methods.hutchinson has no function hessian"),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")
def test_what_cannot_be_split_is_refused(change, words) -> None:
    with pytest.raises(NotImplementedError, match=words):
        batches.hessian(**given(**change))


def test_an_estimate_is_not_added_up() -> None:
    with pytest.raises(NotImplementedError, match="type Estimate cannot be added up"):
        batches.diagonal(**given(method=hutchinson))


def test_batches_of_single_samples_are_checked_too() -> None:
    single = in_parts(network()[1], labels(11), sizes=[1] * 11)
    true = factored.diagonal(network()[0], nn.CrossEntropyLoss(), network()[1], labels(11))
    assert distance(batches.diagonal(**given(batches=single)), true) < 1e-12
    with pytest.raises(NotImplementedError, match="samples depend on each other"):
        batches.diagonal(**given(batches=single, criterion=lambda x, _: x.logsumexp(0).sum(), weights="sum"))


def test_batches_of_one_sample_that_cannot_be_put_together_are_passed_over() -> None:
    model, _ = network()
    parts = [(draw(1, length, 3), draw(1, length, 4, seed=1)) for length in (5, 3, 2)]
    found = batches.diagonal(create_graph_rows, model, nn.MSELoss(), parts)
    whole = [torch.cat([data.flatten(0, 1) for data in several]) for several in zip(*parts, strict=True)]
    assert distance(found, factored.diagonal(model, nn.MSELoss(), *whole)) < 1e-12


def mean_over_tokens(outputs, targets):
    """A mean over the targets that are not ignored, for outputs (N, S, C)."""
    return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=-1)


@pytest.mark.parametrize("size", [1, 4])
def test_a_divisor_that_is_wrong_only_between_batches_is_noticed(size) -> None:
    """All samples of a batch have as many targets that count."""
    model, _ = network()
    inputs, targets = draw(8, 5, 3), labels(8, 5)
    targets[4:, 1:] = -1
    given = model, mean_over_tokens, in_parts(inputs, targets, sizes=[size] * (8 // size))
    with pytest.raises(NotImplementedError, match="its mean does not divide by what was assumed"):
        batches.diagonal(create_graph_rows, *given, weights="mean")
    found = batches.diagonal(create_graph_rows, *given, weights=lambda _, targets: (targets >= 0).sum())
    whole = from_network(model, mean_over_tokens, inputs, targets)
    assert distance(found, create_graph_rows.diagonal(whole.loss, whole.theta)) < 1e-12


@pytest.mark.parametrize("factor", [1e-3, 1e-8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_penalty_in_the_criterion_is_not_counted_in_each_batch(dtype, factor) -> None:
    model, entropy = network()[0].to(dtype), nn.CrossEntropyLoss(CLASS_WEIGHTS.to(dtype), reduction="sum")

    class Penalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.entropy = model, entropy

        def forward(self, outputs, targets):
            return penalised(outputs, targets)

    def penalised(outputs, targets):
        return entropy(outputs, targets) + factor * sum(each.square().sum() for each in model.parameters())

    parts = in_parts(draw(256, 3).to(dtype), labels(256), sizes=[128, 128])
    for criterion in (penalised, Penalised()):
        with pytest.raises(NotImplementedError, match=r"A penalty on the parameters .* is counted in each batch"):
            batches.diagonal(create_graph_rows, model, criterion, parts, weights="sum")


class Slope(nn.Module):
    """It takes a gradient in its forward pass, as networks that solve differential equations do."""

    def __init__(self):
        super().__init__()
        self.inner = network()[0]

    def forward(self, x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(self.inner(x).square().sum(), x, create_graph=True)[0]


def test_a_network_that_takes_a_gradient() -> None:
    inputs, targets = draw(11, 3), draw(11, 3, seed=1)
    whole = from_network(Slope(), nn.MSELoss(), inputs, targets)
    found = batches.hessian(create_graph_rows, Slope(), nn.MSELoss(), in_parts(inputs, targets))
    assert distance(found, create_graph_rows.hessian(whole.loss, whole.theta)) < 1e-12


class Fixed(nn.Module):
    """It has a float32 tensor that is no buffer, and writes into a new one; it may not be computed in float64."""

    def __init__(self, only_float32):
        super().__init__()
        self.inner, self.fixed, self.only_float32 = nn.Linear(3, 4), draw(4, 4).float(), only_float32

    def forward(self, x):
        if self.only_float32 and x.dtype != torch.float32:
            raise TypeError
        outputs = torch.empty(len(x), 4)
        outputs[:] = torch.tanh(self.inner(x)) @ self.fixed
        return outputs


class LowWithin(nn.Module):
    """It computes in bfloat16 within, for batches of 4 samples or of any number."""

    def __init__(self, always):
        super().__init__()
        self.inner, self.last, self.always = nn.Linear(3, 4), nn.Linear(4, 4), always

    def forward(self, x):
        hidden = torch.tanh(self.inner(x))
        return self.last(hidden.bfloat16().float() if self.always or len(x) == 4 else hidden)


@pytest.mark.parametrize("model", [Fixed(False), Fixed(True), LowWithin(always=True), nn.Linear(3, 4).bfloat16()])
def test_losses_that_are_sums_up_to_rounding_are_accepted(model) -> None:
    dtype = next(model.parameters()).dtype
    criterion = nn.CrossEntropyLoss(CLASS_WEIGHTS.to(dtype), reduction="sum")
    parts = in_parts(draw(64, 3).to(dtype), labels(64), sizes=[32, 32])
    found = batches.diagonal(create_graph_rows, model, criterion, parts, weights="sum")
    assert found.isfinite().all()
    with pytest.raises(NotImplementedError, match="samples depend on each other"):
        batches.diagonal(create_graph_rows, model, lambda x, _: x.logsumexp(0).sum(), parts, weights="sum")


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e3])
def test_gradients_that_cancel_are_no_reason_to_refuse(scale) -> None:
    """At an optimum, and where the softmax is saturated."""
    inputs = draw(64, 3, seed=1)
    model = nn.Linear(3, 4).double()
    with torch.no_grad():
        model.weight.copy_(scale * draw(4, 3)), model.bias.zero_()
    for criterion, targets in (
        (nn.MSELoss(), model(inputs).detach()),
        (nn.CrossEntropyLoss(), model(inputs).argmax(1)),
    ):
        parts = in_parts(inputs, targets, sizes=[32, 32])
        found = batches.diagonal(create_graph_rows, model, criterion, parts, weights="mean")
        assert distance(found, factored.diagonal(model, criterion, inputs, targets)) < 1e-10


def test_the_sum_is_compared_at_the_lowest_precision_of_its_batches() -> None:
    torch.manual_seed(0)
    model = LowWithin(always=False)
    low, high = ((nn.CrossEntropyLoss(), draw(samples, 3).float(), labels(samples)) for samples in (4, 5))
    for order in ([low, high], [high, low]):
        state, rows = None, Rows(torch.empty(36, 36), 0)
        for each in Sum(model, order).networks():
            state = write_products(state, each, rows, 2.0**20, "rows")
        assert state is not None
        assert state.comparison.precision == torch.bfloat16


# In the harness


def test_a_problem_of_batches_is_that_of_all_samples(job) -> None:
    model, inputs = network()
    parts = in_parts(inputs, IGNORED)
    problem = from_batches(model, nn.CrossEntropyLoss(weight=CLASS_WEIGHTS), lambda: iter(parts))
    assert problem.batch_sizes == (4, 4, 3)
    assert [len(part) for part, _ in batches_of(problem)] == [4, 4, 3]
    true = central_differences(problem)
    assert distance(bind(job(), problem).call(), true) < 1e-8
    single = problem.to("cpu", torch.float32)
    assert (single.batch_sizes, single.theta.dtype) == ((4, 4, 3), torch.float32)
    assert bind(job(dtype="float32"), single).call().dtype == torch.float32
    for whole in (problem, split(from_network(model, functional.cross_entropy, inputs, labels(11)), 3)):
        part = subset(whole, 5, 0).to("cpu", torch.float64)
        found = bind(job(), part).call()
        assert distance(found, create_graph_rows.hessian(part.loss, part.theta)) < 1e-12


def test_a_problem_of_batches_that_are_inputs_alone(job) -> None:
    model, inputs = network()

    class Scored(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, pixels):
            return self.inner(pixels).square().mean()

    problem = from_batches(Scored(), None, [{"pixels": part} for part in inputs.split(4)], weights="mean")
    assert problem.batch_sizes == (4, 4, 3)
    assert distance(bind(job(), problem).call(), create_graph_rows.hessian(problem.loss, problem.theta)) < 1e-12


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (
            lambda: split(from_function(torch.sum, torch.ones(3)), 2),
            "batches=2 cannot be had: the problem is a function",
        ),
        (lambda: split(networks.mlp(batch=3), 4), "batches=4 cannot be had: there are only 3 samples"),
        (lambda: from_batches(network()[0], None, []), "there are no batches"),
        (lambda: from_batches(network()[0], None, iter(PARTS)), "can be gone through only once"),
        (lambda: from_batches(network()[0], None, [(1, 2, 3)]), "found tuple of 3"),
        (lambda: from_batches(network()[0], None, [(draw(2, 3), None), (draw(2, 4), None)]), "cannot be put together"),
        (lambda: from_batches(network()[0], None, [("a", None)]), "the inputs hold no samples"),
    ],
)
def test_problems_without_batches_are_refused(build, words) -> None:
    with pytest.raises(ProblemError, match=words):
        build()


def test_a_benchmark_cell_over_batches(run) -> None:
    for path in ("methods.factored.hessian", "methods.create_graph_rows.hessian"):
        seen = run(target=path, problem_options={"batches": 3, "batch": 8, "width": 3}, passes=("agreement",))
        assert (seen["status"], seen["samples"]) == ("ok", 8), seen["message"]
        assert seen["relative_error"] < 1e-12
    seen = run(problem_options={"batches": 9, "batch": 8}, passes=("agreement",))
    assert (seen["status"], "there are only 8 samples" in seen["message"]) == ("error", True)


@pytest.mark.parametrize("vectors", [None, torch.ones(83), torch.ones(2, 83), torch.ones(83, 0)])
def test_vectors_of_another_shape_are_refused(vectors) -> None:
    model, inputs = network()
    with pytest.raises(ValueError, match=r"vectors must be a tensor \(\d+, k\) with k of at least 1; found"):
        batches.hvp(vmap_hvp, model, nn.CrossEntropyLoss(), in_parts(inputs, labels(11)), vectors)
