"""What the certificate of `methods.factored` finds, and that nothing wrong or unknown passes it."""

import copy
import re
from unittest import mock

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from harness.problems import networks, transformers
from harness.truth import differences
from methods import factored
from methods.factoring import diagonal, hessian, products, propagation, rows, sequential
from methods.factoring.certificate import Certificate, FallbackError, FallbackWarning
from methods.factoring.comparison import CertificateError, Comparison
from methods.factoring.network import Network
from methods.factoring.refusals import refusals
from tests.oracles import distance

pytestmark = pytest.mark.usefixtures("matrix_products")

QUANTITIES = ("hessian", "diagonal")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(model):
    return networks.draw_parameters(model, torch.Generator().manual_seed(0))


def truth(model, criterion, inputs, targets):
    """The Hessian (P, P) by central differences of the plain gradient, with an estimate of its error."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    theta = torch.cat([p.detach().flatten() for p in parameters])

    @torch.enable_grad()  # for networks that take a gradient
    def loss(theta):
        theta = theta if theta.requires_grad else theta.clone().requires_grad_()
        parts = theta.split([p.numel() for p in parameters])
        values = {name: part.view_as(p) for name, part, p in zip(names, parts, parameters, strict=True)}
        return criterion(functional_call(model, values, inputs), targets)

    return differences.hessian(loss, theta)


def right(model, criterion, inputs, targets, quantity):
    true, error = truth(model, criterion, inputs, targets)
    true = true if quantity == "hessian" else true.diagonal()
    found = getattr(factored, quantity)(model, criterion, inputs, targets)
    return float((found - true).norm() / true.norm()) < max(1e-9, 100 * error)


def arguments(problem):
    return problem.model, problem.criterion, problem.inputs, problem.targets


class Flat(nn.Module):
    """Keeps an activation for a criterion that reads it where its slope is zero."""

    def __init__(self, body, head):
        super().__init__()
        self.body, self.head = made(body), made(head)

    def forward(self, x):
        self.kept = self.body(x)
        return self.head(self.kept.flatten(1))


def _flat(model):
    """A criterion that adds the distance of the kept activation from what it is now, whose slope is zero."""
    kept = {}

    def criterion(outputs, targets):
        if "now" not in kept:
            kept["now"] = model.kept.detach().clone()
        return functional.cross_entropy(outputs, targets) + (model.kept - kept["now"]).square().sum()

    return criterion


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize(
    ("body", "head", "shape"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Linear(4, 2), (5, 3)),
        (nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Sequential(nn.Tanh(), nn.Linear(4, 2)), (5, 3)),
        (nn.Sequential(nn.Conv1d(2, 3, 2), nn.SiLU()), nn.Linear(6, 2), (4, 2, 3)),
        (nn.Identity(), nn.Linear(3, 2), (5, 3)),
    ],
)
def test_a_criterion_that_reads_a_kept_activation_where_it_is_flat(body, head, shape, quantity) -> None:
    model = Flat(body, head)
    assert right(model, _flat(model), draw(*shape, seed=1), torch.arange(shape[0]) % 2, quantity)


class WithGradient(nn.Module):
    """Takes the gradient of a network in its inputs within its forward pass."""

    def __init__(self, kind):
        super().__init__()
        self.net, self.kind = made(nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))), kind

    def forward(self, x):
        if self.kind == "func":
            return torch.func.vmap(torch.func.grad(lambda x: self.net(x).sum()))(x)
        x = x.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)
        if self.kind == "laplacian":
            return sum(torch.autograd.grad(slope[:, k].sum(), x, create_graph=True)[0][:, k] for k in range(2))
        if self.kind == "hamiltonian":
            return slope.flip(1) * slope.new_tensor([1.0, -1.0])
        return slope + self.net(x)


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("kind", ["residual", "laplacian", "hamiltonian", "func"])
def test_gradients_within_the_forward_pass(kind, quantity) -> None:
    model, inputs = WithGradient(kind), draw(4, 2, seed=1)
    with torch.enable_grad():
        targets = torch.zeros_like(model(inputs)).detach()
    assert right(model, nn.MSELoss(), inputs, targets + 0.3, quantity)


def test_an_inner_gradient_step_within_the_forward_pass() -> None:
    class Adapted(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = made(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)))

        def forward(self, x):
            names, values = zip(*self.net.named_parameters(), strict=True)
            slopes = torch.autograd.grad(self.net(x).square().mean(), values, create_graph=True)
            moved = [p - 0.1 * slope for p, slope in zip(values, slopes, strict=True)]
            return functional_call(self.net, dict(zip(names, moved, strict=True)), x)

    for quantity in QUANTITIES:
        assert right(Adapted(), nn.MSELoss(), draw(4, 2, seed=1), draw(4, 1, seed=2), quantity)


class Forces(nn.Module):
    """Energy and minus its gradient in the positions, which torch's transforms do not see."""

    def __init__(self, layers):
        super().__init__()
        self.net = made(nn.Sequential(*layers))

    def forward(self, positions):
        energy = self.net(positions)
        (slope,) = torch.autograd.grad(energy.sum(), positions, create_graph=True, allow_unused=True)
        return energy, torch.zeros_like(positions) if slope is None else -slope


def _energy_and_forces(outputs, targets):
    return functional.mse_loss(outputs[0], targets[0]) + functional.mse_loss(outputs[1], targets[1])


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 1)],
        [nn.Linear(3, 2), nn.Softplus(), nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)],
        [nn.Linear(3, 3, bias=False), nn.Sigmoid(), nn.RMSNorm(3), nn.Linear(3, 1)],
    ],
)
def test_forces_beside_an_energy(layers, quantity) -> None:
    targets = draw(4, 1, seed=1), draw(4, 3, seed=2)
    assert right(Forces(layers), _energy_and_forces, draw(4, 3).requires_grad_(), targets, quantity)


def test_the_third_derivative_of_a_layer_norm_is_an_error() -> None:
    """Rows by double backward of forces under a LayerNorm are off by half, and not symmetric (torch 2.13)."""
    model = Forces([nn.Linear(3, 3, bias=False), nn.Sigmoid(), nn.LayerNorm(3), nn.Linear(3, 1)])
    given = model, _energy_and_forces, draw(4, 3).requires_grad_(), (draw(4, 1, seed=1), draw(4, 3, seed=2))
    for quantity in QUANTITIES:
        with pytest.warns(FallbackWarning), pytest.raises(CertificateError, match="not symmetric"):
            getattr(factored, quantity)(*given)


class Projected(nn.Module):
    """A parameter is the input of an affine map, beside being the weight of one."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.embedding, self.linear = made(nn.Embedding(5, 3)), made(nn.Linear(3, 3, bias=kind != "itself"))

    def forward(self, index):
        x = self.embedding(index).mean(1).tanh()
        if self.kind == "codebook":
            return x @ self.linear(self.embedding.weight).T
        if self.kind == "itself":
            return self.linear(x) @ functional.linear(self.linear.weight, self.linear.weight)
        return self.linear(functional.linear(x, self.linear(self.linear.weight)))


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("kind", ["codebook", "itself", "twice"])
@pytest.mark.parametrize("samples", [1, 5])
def test_a_parameter_that_is_the_input_of_an_affine_map(kind, samples, quantity) -> None:
    index = torch.randint(5, (samples, 2), generator=torch.Generator().manual_seed(0))
    assert right(Projected(kind), nn.CrossEntropyLoss(), index, torch.arange(samples) % 3, quantity)


class Teacher(nn.Module):
    """A second pass through the same weights under `no_grad`, which torch's forward mode would differentiate."""

    def __init__(self, kind):
        super().__init__()
        self.net, self.kind = made(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))), kind
        self.held: list[torch.Tensor] | None = None  # for the truth: what the teacher says, as constants

    def forward(self, x):
        outputs = self.net(x)
        if self.held is not None:
            return outputs, self.held
        if self.kind == "detach":
            return outputs, self.net(-x).detach()
        with torch.no_grad():
            target = self.net(-x)
            if self.kind == "in_place":
                target.mul_(2)
            return outputs, target


@pytest.mark.parametrize("kind", ["no_grad", "in_place", "detach"])
def test_a_teacher_of_the_same_weights_is_held(kind) -> None:
    model, inputs = Teacher(kind), draw(5, 3, seed=1)

    def criterion(outputs, _):
        return functional.mse_loss(*outputs)

    assert set(factored.explain(model, criterion, inputs, None).values()) == {"matrix products"}
    found = [getattr(factored, quantity)(model, criterion, inputs, None) for quantity in QUANTITIES]
    model.held = model(inputs)[1].detach()
    true, error = truth(model, criterion, inputs, None)
    assert distance(found[0], true) < max(1e-9, 100 * error)
    assert torch.allclose(found[1], true.diagonal(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shape", [(), (1,), (6,)])
def test_outputs_without_a_second_dimension_and_parameters_without_any(shape) -> None:
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = made(nn.Linear(3, 1))
            self.temperature = nn.Parameter(torch.full(shape if shape != (6,) else (), 1.5, dtype=torch.float64))

        def forward(self, x):
            outputs = (self.linear(x).squeeze(-1) / self.temperature).tanh()
            return outputs if shape == (6,) else outputs.sum().view(shape)

    model, inputs, targets = Model(), draw(6, 3, seed=1), torch.full(shape, 0.2, dtype=torch.float64)
    true, _ = truth(model, nn.MSELoss(), inputs, targets)
    for quantity in QUANTITIES:
        assert right(model, nn.MSELoss(), inputs, targets, quantity)
    vectors = draw(len(true), 2, seed=3)
    assert distance(factored.hvp(model, nn.MSELoss(), inputs, targets, vectors), true @ vectors) < 1e-8


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("share", [1e-3, 1.0])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_an_error_of_the_derivation_is_found_and_mended(which, share, dtype) -> None:
    """One of a network's blocks is planted wrong: a tenth of a percent of it, or all."""
    problem = networks.mlp(inputs=4, width=5, depth=2, outputs=3, batch=6).to("cpu", dtype)
    right = factored.hessian(*arguments(problem))
    write, calls = products.write, []

    def wrong(out, use, other, first, slopes, *others):
        calls.append(None)
        write(out, use, other, first, slopes * (1 + share * (len(calls) == which + 1)), *others)

    with mock.patch.object(hessian, "write", wrong), pytest.warns(FallbackWarning, match="off by"):
        found = factored.hessian(*arguments(problem))
    assert distance(found.double(), right.double()) < {torch.float64: 1e-13, torch.float32: 1e-6}[dtype]


@pytest.mark.parametrize("path", ["chain", "propagated", "shifted"])
def test_an_error_of_the_diagonal_is_found_and_mended(path) -> None:
    problem = networks.mlp(inputs=4, width=5, depth=2, outputs=3, batch=6)
    right = factored.diagonal(*arguments(problem))
    uses_of, uses_of_calls = diagonal.uses_of, sequential.uses_of_calls
    with (
        mock.patch.object(sequential, "NUMBERS", sequential.NUMBERS if path == "chain" else 0),
        mock.patch.object(sequential, "uses_of_calls", lambda *arguments: _scaled(uses_of_calls(*arguments))),
        mock.patch.object(diagonal, "uses_of", lambda network, fixed: _scaled(uses_of(network, fixed))),
        mock.patch.object(propagation, "OUTPUTS", 0 if path == "shifted" else 256),
        pytest.warns(FallbackWarning, match=r"2\.weight \(off by"),
    ):
        found = factored.diagonal(*arguments(problem))
    assert torch.allclose(found, right, rtol=1e-11)


def _scaled(uses):
    """As if the features of the second layer had been taken wrongly by a tenth of a percent."""
    uses[1].parts[0].features.mul_(1.001)
    return uses


def test_batched_products_that_are_wrong_are_found_and_mended() -> None:
    problem = networks.mlp(inputs=4, width=5, outputs=3, batch=6)
    vectors = draw(len(problem.theta), 3)
    right = factored.hvp(*arguments(problem), vectors)
    with (
        mock.patch.object(factored, "products_of", return_value=1.001 * right.T),
        pytest.warns(FallbackWarning, match="single passes"),
    ):
        found = factored.hvp(*arguments(problem), vectors)
    assert distance(found, right) < 1e-14


class _Turned(torch.autograd.Function):
    """A square whose backward takes other entries: the gradient of no function."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, cotangent):
        return 2 * ctx.saved_tensors[0].roll(1, -1) * cotangent


@pytest.mark.filterwarnings("ignore::methods.factoring.certificate.FallbackWarning")
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_second_derivative_that_is_not_symmetric_is_an_error(place) -> None:
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([made(nn.Linear(3, 3)) for _ in range(3)])

        def forward(self, x):
            for index, layer in enumerate(self.layers):
                x = _Turned.apply(layer(x)) if index == place else layer(x).tanh()
            return x

    given = Model(), nn.CrossEntropyLoss(), draw(5, 3, seed=1), torch.arange(5) % 3
    with pytest.raises(CertificateError, match="not symmetric"):
        factored.hessian(*given)
    with pytest.raises(CertificateError, match="not symmetric"):
        factored.hvp(*given, draw(36, 2, seed=2))


@pytest.mark.parametrize("error", [KeyError("a"), IndexError("b"), RuntimeError("The size of tensor a must match b")])
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_an_unknown_exception_is_raised(error, quantity) -> None:
    problem = networks.mlp(inputs=4, width=5, outputs=3, batch=6)
    with mock.patch.object(Network, "traced", side_effect=error), pytest.raises(type(error)):
        getattr(factored, quantity)(*arguments(problem))


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmStridedBatchedEx(handle)`",
        "CUDA error: CUSPARSE_STATUS_ALLOC_FAILED when calling `cusparseCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "CUDA error: an illegal memory access was encountered",
        "Expected all tensors to be on the same device, but got mat2 is on cpu, different from other tensors on cuda:0 "
        "(when checking argument in method wrapper_CUDA_mm)",
    ],
)
def test_an_error_of_a_device_is_not_hidden_behind_rows(text) -> None:
    with pytest.raises(RuntimeError, match=re.escape(text)), refusals():
        raise RuntimeError(text)
    theta = torch.ones(2, requires_grad=True)
    failing = mock.patch.object(torch.autograd, "grad", side_effect=RuntimeError(text))
    with failing, pytest.raises(RuntimeError, match=re.escape(text)):
        rows.vjps([theta * theta], [theta], [torch.eye(2)])


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.BatchNorm1d(4, track_running_stats=False), "samples depend on each other"),
        (nn.BatchNorm1d(4), "enters no affine map"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), "enters no affine map"),
    ],
)
def test_rows_are_reported_and_can_be_refused(layer, reason) -> None:
    model = made(nn.Sequential(nn.Linear(3, 4), layer, nn.Tanh(), nn.Linear(4, 2)))
    given = model, nn.CrossEntropyLoss(), draw(5, 3, seed=1), torch.arange(5) % 2
    for quantity in QUANTITIES:
        reasons = factored.explain(*given, quantity)
        assert list(reasons) == [name for name, _ in model.named_parameters()]
        assert any(reason in how for how in reasons.values())
        with pytest.raises(FallbackError, match=reason):
            getattr(factored, quantity)(*given, fallback="error")
        assert right(*given, quantity)


def test_arguments_that_are_no_choice_are_refused() -> None:
    given = arguments(networks.mlp(inputs=2, width=3, outputs=2, batch=2))
    with pytest.raises(ValueError, match="fallback='never' must be"):
        factored.hessian(*given, fallback="never")
    with pytest.raises(ValueError, match="quantity='hvp' must be"):
        factored.explain(*given, "hvp")


def test_networks_of_the_harness_take_no_rows() -> None:
    """But for those of the diagonal that cost less."""
    for problem in (
        networks.mlp(inputs=7, width=9, depth=2, outputs=3, batch=5, norm="layer"),
        networks.mlp(inputs=7, width=9, outputs=3, batch=5, task="regression"),
        networks.cnn(image=4, channels=4, outputs=2, batch=3),
        networks.lenet5(image=12, channels=(2, 3), widths=(7, 5), outputs=3, batch=2),
        transformers.transformer(width=12, heads=2, length=4, blocks=2, batch=2, attention="sdpa"),
    ):
        assert set(factored.explain(*arguments(problem)).values()) == {factored.USUAL}
        factored.diagonal(*arguments(problem), fallback="error")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype) -> None:
    given = arguments(networks.mlp(inputs=2, width=3, outputs=2, batch=2).to("cpu", dtype))
    vectors = torch.ones(17, 1, dtype=dtype)
    for call in (factored.hessian, factored.diagonal, factored.explain, lambda *given: factored.hvp(*given, vectors)):
        with pytest.raises(NotImplementedError, match="compute in float32"):
            call(*given)


class Cast(nn.Module):
    """A network that casts within, or autocasts."""

    def __init__(self, body, inner, autocast):
        super().__init__()
        self.body, self.inner, self.autocast = body, inner, autocast

    def forward(self, x):
        if self.autocast:
            with torch.autocast("cpu", dtype=self.inner):
                return self.body(x).to(x.dtype)
        return self.body[2](self.body[0](x).to(self.inner).tanh().to(x.dtype))


@pytest.mark.parametrize(
    ("outer", "inner", "autocast", "tolerance"),
    [
        (torch.float64, torch.float32, False, 1e-5),
        (torch.float64, torch.float16, False, 5e-3),
        (torch.float32, torch.bfloat16, False, 3e-2),
        (torch.float32, torch.bfloat16, True, 3e-2),
    ],
)
def test_a_lower_precision_within_the_loss_takes_rows(outer, inner, autocast, tolerance) -> None:
    body = made(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    inputs, targets = draw(5, 3, seed=1), torch.arange(5) % 2
    true, _ = truth(body, nn.CrossEntropyLoss(), inputs, targets)
    given = Cast(copy.deepcopy(body).to(outer), inner, autocast), nn.CrossEntropyLoss(), inputs.to(outer), targets
    assert set(factored.explain(*given).values()) == {f"the loss computes in {inner} within"}
    for quantity in QUANTITIES:
        found = getattr(factored, quantity)(*given).double()
        expected = true if quantity == "hessian" else true.diagonal()
        assert float((found - expected).norm() / expected.norm()) < tolerance


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_matrix_products_are_in_full_precision(precision) -> None:
    seen = []

    class Model(nn.Linear):
        def forward(self, x):
            seen.append({torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision})
            return super().forward(x)

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        factored.hessian(Model(3, 2), nn.CrossEntropyLoss(), torch.ones(4, 3), torch.arange(4) % 2)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    assert all(precisions <= {"ieee", "none"} for precisions in seen)


def test_a_network_may_set_the_switches_of_its_layers() -> None:
    class Model(nn.Linear):
        def forward(self, x):
            with torch.backends.cudnn.flags(enabled=False):
                return super().forward(x)

    given = Model(3, 2), nn.CrossEntropyLoss(), torch.ones(4, 3), torch.arange(4) % 2
    assert distance(factored.hessian(*given), factored.hessian(nn.Linear(3, 2), *given[1:])) < 10  # no exception


def _hook_parameter(model):
    model[0].weight.register_hook(lambda slope: slope / 2)


def _hook_module(model):
    model[1].register_full_backward_hook(lambda module, inputs, outputs: (2 * inputs[0],))


def _hook_activation(model):
    model[1].register_forward_hook(
        lambda module, inputs, output: output.register_hook(lambda slope: 3 * slope) and None
    )


@pytest.mark.parametrize("hook", [_hook_parameter, _hook_module, _hook_activation])
def test_hooks_that_may_change_gradients_are_refused(hook) -> None:
    model = made(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    hook(model)
    given = model, nn.CrossEntropyLoss(), draw(5, 3), torch.arange(5) % 2
    for call in (factored.hessian, factored.diagonal, lambda *given: factored.hvp(*given, draw(26, 1))):
        with pytest.raises(NotImplementedError, match="change the gradient"):
            call(*given)


def test_hooks_that_only_look_are_taken() -> None:
    model = made(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    given = model, nn.CrossEntropyLoss(), draw(5, 3), torch.arange(5) % 2
    expected, seen = factored.hessian(*given), []
    model[1].register_full_backward_hook(lambda module, inputs, outputs: seen.append(inputs))
    model[0].weight.register_hook(lambda slope: seen.append(slope))
    assert distance(factored.hessian(*given), expected) < 1e-14
    assert len(model[1]._backward_hooks) == len(model[0].weight._backward_hooks) == 1


@pytest.mark.parametrize(("noise", "error"), [(0.02, 1e-3), (1e-3, 0.05), (1e-3, 2.0)])
def test_rounding_errors_excuse_at_most_a_percent(noise, error) -> None:
    problem = networks.mlp(inputs=4, width=5, outputs=3, batch=6)
    certificate = Certificate(Network(*arguments(problem)))
    true = certificate.product(certificate.vector)
    with mock.patch.object(Comparison, "noise", return_value=noise * true.abs()):
        if noise > 0.01:
            with pytest.raises(CertificateError, match="2% of what double backward"):
                certificate.failing((1 + error) * true, certificate.product)
        else:
            assert certificate.failing((1 + error) * true, certificate.product)


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_sparse_matrices_within_the_network(layout) -> None:
    dense = (draw(6, 6, seed=4) > 0.3).double() / 6

    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = made(nn.Linear(3, 4)), made(nn.Linear(4, 2))

        def forward(self, x, adjacency):
            return adjacency @ self.two((adjacency @ self.one(x)).tanh())

    sparse = dense.to_sparse_coo() if layout == "coo" else dense.to_sparse_csr()
    given = draw(6, 3, seed=1), sparse
    for quantity in QUANTITIES:
        found = getattr(factored, quantity)(Graph(), nn.CrossEntropyLoss(), given, torch.arange(6) % 2)
        expected = getattr(factored, quantity)(Graph(), nn.CrossEntropyLoss(), (given[0], dense), torch.arange(6) % 2)
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-13)


def test_a_loss_that_is_not_deterministic_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(), nn.Linear(8, 2))
    given = model, nn.CrossEntropyLoss(), torch.ones(4, 3), torch.arange(4) % 2
    for call in (factored.hessian, factored.diagonal, lambda *given: factored.hvp(*given, torch.ones(50, 1))):
        with pytest.raises(ValueError, match="not deterministic"):
            call(*given)


@pytest.mark.parametrize(
    "criterion",
    [
        lambda outputs, _: outputs.sum(),
        lambda outputs, _: outputs.softmax(1).sum(),
        lambda outputs, _: outputs.log_softmax(1).exp().sum(1).mean(),
    ],
)
def test_a_hessian_that_is_zero_up_to_rounding_is_no_alarm(criterion) -> None:
    model = made(nn.Sequential(nn.Linear(3, 2)))
    for dtype in (torch.float64, torch.float32):
        given = model.to(dtype), criterion, draw(5, 3, seed=1).to(dtype), None
        assert float(factored.hessian(*given).abs().max()) < 10 * torch.finfo(dtype).eps
        assert float(factored.diagonal(*given).abs().max()) < 10 * torch.finfo(dtype).eps
        assert float(factored.hvp(*given, torch.ones(8, 1, dtype=dtype)).abs().max()) < 10 * torch.finfo(dtype).eps


def test_a_second_derivative_that_is_not_finite_is_an_error() -> None:
    model = made(nn.Linear(3, 2, bias=False))
    given = model, lambda outputs, _: (outputs - outputs.detach()).abs().pow(1.5).sum(), draw(5, 3), None
    with pytest.raises(CertificateError, match="not finite"):
        factored.hessian(*given)


def test_gradients_are_taken_where_they_are_switched_off() -> None:
    given = arguments(networks.mlp(inputs=2, width=3, outputs=2, batch=2))
    with torch.no_grad():
        found = factored.hessian(*given)
    assert distance(found, factored.hessian(*given)) == 0
