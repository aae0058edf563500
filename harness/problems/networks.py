"""Networks with random weights and data; every size is an option, every draw comes from one seed, in float64."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.problems.construction import from_network
from harness.problems.errors import ProblemError
from harness.problems.problem import Problem

ACTIVATIONS = {
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
}


def mlp(
    *,
    seed: int = 0,
    inputs: int = 10,
    width: int = 16,
    depth: int = 1,
    outputs: int = 5,
    activation: str = "tanh",
    norm: str | None = None,
    batch: int = 64,
    task: str = "classes",
) -> Problem:
    """A multilayer perceptron with `depth` hidden layers of `width`: inputs -> width -> ... -> outputs.

    `norm="layer"` puts an affine LayerNorm before each activation. `task="classes"` is softmax cross-entropy over
    `outputs` classes, "regression" mean squared error.
    """
    require_positive("mlp", inputs=inputs, width=width, depth=depth, outputs=outputs, batch=batch)
    require_one_of("mlp", norm=(norm, (None, "layer")))
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for layer in range(depth):
        layers.append(nn.Linear(inputs if layer == 0 else width, width))
        if norm == "layer":
            layers.append(nn.LayerNorm(width))
        layers.append(activation_of("mlp", activation))
    model = draw_parameters(nn.Sequential(*layers, nn.Linear(width, outputs)), generator)
    x = torch.randn(batch, inputs, generator=generator, dtype=torch.float64)
    return from_network(model, *task_of("mlp", task, x, outputs, generator))


def cnn(
    *,
    seed: int = 0,
    image: int = 8,
    channels: int = 4,
    depth: int = 2,
    outputs: int = 5,
    activation: str = "tanh",
    batch: int = 32,
    task: str = "classes",
) -> Problem:
    """A small convolutional network on one-channel `image` x `image` inputs.

    `depth` 3 x 3 convolutions of stride 2, then one linear layer; options as in `mlp`.
    """
    require_positive("cnn", image=image, channels=channels, depth=depth, outputs=outputs, batch=batch)
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    size = image
    for layer in range(depth):
        layers += [nn.Conv2d(1 if layer == 0 else channels, channels, 3, stride=2, padding=1)]
        layers += [activation_of("cnn", activation)]
        size = (size + 1) // 2
    model = draw_parameters(nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size * size, outputs)), generator)
    x = torch.randn(batch, 1, image, image, generator=generator, dtype=torch.float64)
    return from_network(model, *task_of("cnn", task, x, outputs, generator))


def lenet5(
    *,
    seed: int = 0,
    image: int = 28,
    channels: tuple[int, int] = (6, 16),
    widths: tuple[int, int] = (120, 84),
    outputs: int = 10,
    activation: str = "tanh",
    batch: int = 32,
    task: str = "classes",
) -> Problem:
    """LeNet-5 (LeCun et al. 1998) on one-channel `image` x `image` inputs; P = 61,706 as it comes.

    Two 5 x 5 convolutions, each with an activation and average pooling, the first padded by 2; then linear layers of
    `widths` and `outputs`.
    """
    require_positive("lenet5", image=image, outputs=outputs, batch=batch)
    for name, pair in (("channels", channels), ("widths", widths)):
        if len(pair) != 2:
            raise ProblemError(f"lenet5: {name}={list(pair)} must be two whole numbers")
        require_positive("lenet5", **{f"{name}[{place}]": size for place, size in enumerate(pair)})
    size = (image // 2 - 4) // 2
    if size < 1:
        raise ProblemError(f"lenet5: image={image} is too small for two 5 x 5 convolutions; take at least 12")
    generator = torch.Generator().manual_seed(seed)
    (first, second), (wide, narrow) = channels, widths
    model = nn.Sequential(
        nn.Conv2d(1, first, 5, padding=2),
        activation_of("lenet5", activation),
        nn.AvgPool2d(2),
        nn.Conv2d(first, second, 5),
        activation_of("lenet5", activation),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(second * size * size, wide),
        activation_of("lenet5", activation),
        nn.Linear(wide, narrow),
        activation_of("lenet5", activation),
        nn.Linear(narrow, outputs),
    )
    x = torch.randn(batch, 1, image, image, generator=generator, dtype=torch.float64)
    return from_network(draw_parameters(model, generator), *task_of("lenet5", task, x, outputs, generator))


def draw_parameters(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw all parameters in float64: weights with variance 1/fan-in, scales near 1, biases and shifts near 0."""
    model = model.double()
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        matrix = parameter.dim() > 1
        centre = 1.0 if name.endswith("weight") and not matrix else 0.0
        parameter.data = centre + noise * (parameter[0].numel() ** -0.5 if matrix else 0.1)
    return model


def task_of(
    problem: str, task: str, x: Tensor, outputs: int, generator: torch.Generator
) -> tuple[nn.Module, Tensor, Tensor]:
    """Criterion, inputs x (N, ...) and random targets of a task, "classes" or "regression" with `outputs`."""
    require_one_of(problem, task=(task, ("classes", "regression")))
    if task == "classes" and outputs < 2:
        raise ProblemError(f"{problem}: outputs=1 with task=classes has no curvature: take two classes or more")
    if task == "classes":
        return nn.CrossEntropyLoss(), x, torch.randint(outputs, (len(x),), generator=generator)
    return nn.MSELoss(), x, torch.randn(len(x), outputs, generator=generator, dtype=torch.float64)


def activation_of(problem: str, name: str) -> nn.Module:
    """The activation of that name; raises ProblemError where there is none."""
    require_one_of(problem, activation=(name, tuple(ACTIVATIONS)))
    return ACTIVATIONS[name]()


def require_positive(problem: str, **options: int) -> None:
    """Raise ProblemError naming the first option that is no whole number of at least 1."""
    for name, value in options.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ProblemError(f"{problem}: {name}={value!r} must be a whole number of at least 1")


def require_one_of(problem: str, **options: tuple[str | None, tuple[str | None, ...]]) -> None:
    """Raise ProblemError for the first option (value, known values) whose value is not known."""
    for name, (value, known) in options.items():
        if value not in known:
            shown = ", ".join("null" if entry is None else entry for entry in known)
            raise ProblemError(f"{problem}: {name}={value} is not known; choose one of {shown}")
