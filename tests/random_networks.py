"""Random small networks with a loss, of every kind of ingredient, and their Hessian by central differences.

`specs()` draws a `Spec`, a few names and sizes; `build` makes a `Case` of it: a model, a criterion, inputs and targets
in some dtype. The same spec in float64 with the same rounded numbers, nothing else rounded and everything held that
autograd takes as constant, is `exact`: the truth is that case's gradient, differenced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.random_blocks import Meaning
from tests.random_criteria import OF_CLASSES, OF_REALS, PENALTIES, leaves
from tests.random_layers import BLOCKS, PLAIN, SEQUENCES, WEIGHTS

WORDS = 4  # in the vocabulary
FLAT_INPUTS = ("vector", "raw", "with_gradient", "pair", "dict", "graph", "leading", "single", "edges")
SEQUENCE_INPUTS = ("sequence", "tokens", "padded", "bag", "image", "time_first", "positions")
OF_LOGITS = ("logits", "each", "tied")
OF_OTHERS = ("column", "flat", "pooled", "scalar", "tuple", "dict", "dataclass")


@dataclass(frozen=True)
class Spec:
    """A random network by the names of its parts."""

    inputs: str
    blocks: tuple[str, ...]
    head: str
    criterion: str
    penalty: str
    dtype: torch.dtype
    training: bool
    samples: int
    width: int
    length: int  # of a sequence
    seed: int

    @property
    def ingredients(self) -> list[str]:
        """The names of all parts."""
        return [self.inputs, *self.blocks, self.head, self.criterion, self.penalty]


@dataclass
class Outputs:
    """A model's output as a dataclass."""

    values: Tensor
    states: Tensor


@dataclass
class Case:
    """A network with its loss, in one dtype."""

    model: nn.Module
    criterion: Callable[[Any, Any], Tensor]
    inputs: Any
    targets: Any
    meaning: Meaning

    def loss(self) -> Tensor:
        """The plain loss (), from the buffers' first values each time."""
        self.meaning.rewind()
        before = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        with sdpa_kernel(SDPBackend.MATH):
            outputs = self.model(*self.inputs) if isinstance(self.inputs, tuple) else self.model(self.inputs)
            loss = self.criterion(outputs, self.targets)
        for name, value in before.items():
            module, _, own = name.rpartition(".")
            setattr(self.model.get_submodule(module), own, value)
        return loss

    @property
    def params(self) -> list[nn.Parameter]:
        """The trainable parameters."""
        return [p for p in self.model.parameters() if p.requires_grad]


def _over_edges(model: Model, edges: Tensor, x: Tensor) -> Tensor:
    y = model.stem(x)
    return y.index_add(0, edges[1], y[edges[0]]).tanh()


def _padded(model: Model, tokens: Tensor) -> Tensor:
    """Embeddings, of which that of the padding is held."""
    weight = model.stem.weight
    if not model.meaning.exact:
        return functional.embedding(tokens, weight, padding_idx=0)
    return functional.embedding(tokens, torch.cat([model.meaning.held(weight[:1]), weight[1:]]))


# (model, *inputs) -> state (N, d) or (N, T, d)
STATES: dict[str, Callable[..., Tensor]] = {
    "vector": lambda model, x: model.stem(x),
    "raw": lambda model, x: x,
    "with_gradient": lambda model, x: x,
    "single": lambda model, x: model.stem(x)[None],
    "pair": lambda model, x, scale: model.stem(x) * scale,
    "dict": lambda model, x: model.stem(x["features"]) * x["mask"],
    "graph": lambda model, adjacency, x: adjacency @ model.stem(x),
    "edges": _over_edges,
    "leading": lambda model, shift, x: model.stem(x) + shift,
    "sequence": lambda model, x: model.stem(x),
    "positions": lambda model, times, x: model.stem(x) * times[:, None],
    "time_first": lambda model, x: model.stem(x).tanh().cumsum(0).transpose(0, 1),
    "tokens": lambda model, x: model.stem(x),
    "padded": _padded,
    "bag": lambda model, x: model.stem(x)[:, None],
    "image": lambda model, x: model.stem(x).flatten(2).mT,
}


class Model(nn.Module):
    """A stem for the inputs, blocks, and a head."""

    def __init__(self, spec: Spec, meaning: Meaning) -> None:
        super().__init__()
        d = spec.width
        self.spec = spec
        self.meaning = meaning
        if spec.inputs == "bag":
            self.stem = nn.EmbeddingBag(WORDS, d)
        elif spec.inputs in ("tokens", "padded"):
            self.stem = nn.Embedding(WORDS, d)
        elif spec.inputs == "image":
            self.stem = nn.Conv2d(1, d, 2)
        elif spec.inputs not in ("raw", "with_gradient"):
            self.stem = nn.Linear(d, d)
        self.blocks = nn.Sequential(*[BLOCKS[name](d, meaning) for name in spec.blocks])
        self.head = nn.Linear(d, {"column": 1, "flat": 1}.get(spec.head, 3))

    def forward(self, *inputs: Any) -> Any:
        return self._out(self.blocks(STATES[self.spec.inputs](self, *inputs)))

    def _out(self, x: Tensor) -> Any:
        kind, mean = self.spec.head, x if x.dim() == 2 else x.mean(1)
        if kind == "each":
            return self.head(x)
        if kind == "tied":
            return functional.linear(x, self.stem.weight if hasattr(self.stem, "weight") else self.head.weight)
        found = self.head(mean)
        return {
            "flat": lambda: found.squeeze(-1),
            "pooled": lambda: found.mean(0),
            "scalar": lambda: found.square().mean(),
            "tuple": lambda: (found, mean),
            "dict": lambda: {"states": mean, "values": found},
            "dataclass": lambda: Outputs(found, mean),
        }.get(kind, lambda: found)()


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """A strategy of networks of one to three blocks.

    All choices hang on one number, since Hypothesis otherwise draws many networks that differ in one name only.
    """
    chance = draw(st.randoms(use_true_random=True))
    inputs = chance.choice(FLAT_INPUTS + SEQUENCE_INPUTS)
    flat = inputs in FLAT_INPUTS
    of_sequences = [] if flat else [SEQUENCES, SEQUENCES]
    blocks = chance.choice([PLAIN, PLAIN | WEIGHTS, *[BLOCKS] * 3, *of_sequences])
    names = tuple(chance.choices(sorted(blocks.keys() - (SEQUENCES if flat else {})), k=chance.randint(1, 3)))
    penalty = chance.choice([*PENALTIES, *["none"] * 15])
    if penalty.startswith("kept"):
        names = ("keeping", *names[1:])
    normed = any(name.startswith("batch_norm") for name in names)  # which needs two samples
    head = chance.choice([head for head in OF_LOGITS + OF_OTHERS if head != "tied" or inputs == "tokens"])
    return Spec(
        inputs="vector" if normed and inputs == "single" else inputs,
        blocks=names,
        head=head,
        criterion=chance.choice([*OF_CLASSES, *OF_REALS] if head in OF_LOGITS else [*OF_REALS]),
        penalty=penalty,
        dtype=chance.choices((torch.float64, torch.float32, torch.bfloat16, torch.float16), (10, 8, 1, 1))[0],
        training=chance.random() < 0.5,
        samples=chance.randint(2 if normed else 1, 4),
        width=chance.choice((2, 3, 3, 4)),
        length=chance.randint(1, 3),
        seed=chance.randrange(10**6),
    )


def build(spec: Spec, dtype: torch.dtype | None = None, exact: bool = False) -> Case:
    """The network of a spec, its numbers rounded to the spec's dtype; computing in another one if `dtype` is given."""
    generator = torch.Generator().manual_seed(spec.seed)

    def drawn(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        return values.to(spec.dtype).to(dtype or spec.dtype)

    meaning = Meaning(exact)
    model = Model(spec, meaning).to(dtype or spec.dtype).train(spec.training)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.6 * drawn(*parameter.shape))
    n, d, t = spec.samples, spec.width, spec.length
    inputs = {
        "sequence": lambda: drawn(n, t, d),
        "edges": lambda: (torch.randint(n, (2, n + 1), generator=generator), drawn(n, d)),
        "tokens": lambda: torch.randint(WORDS, (n, t), generator=generator),
        "image": lambda: drawn(n, 1, 2, t + 1),
        "time_first": lambda: drawn(t, n, d),
        "positions": lambda: (drawn(t), drawn(n, t, d)),
        "with_gradient": lambda: drawn(n, d).requires_grad_(),
        "pair": lambda: (drawn(n, d), drawn(n, 1)),
        "dict": lambda: {"features": drawn(n, d), "mask": drawn(n, 1).abs()},
        "graph": lambda: (drawn(n, n), drawn(n, d)),
        "leading": lambda: (drawn(d), drawn(n, d)),
        "single": lambda: drawn(d),
    }
    inputs["padded"] = inputs["bag"] = inputs["tokens"]
    inputs = inputs.get(spec.inputs, lambda: drawn(n, d))()
    return Case(model, *_criterion(spec, model, meaning, inputs, drawn, generator), meaning)


def _criterion(
    spec: Spec, model: Model, meaning: Meaning, inputs: Any, drawn: Callable[..., Tensor], generator: torch.Generator
) -> tuple[Callable[[Any, Any], Tensor], Any, Any]:
    """The criterion, the inputs and targets of the outputs' shapes."""
    outputs = _shapes(spec)
    if spec.criterion in OF_CLASSES:
        targets = torch.randint(outputs[0][-1], outputs[0][:-1], generator=generator)
        base = OF_CLASSES[spec.criterion]
    else:
        targets = tuple(drawn(*shape) for shape in outputs)

        def base(found: Any, targets: Any) -> Tensor:
            return sum(OF_REALS[spec.criterion](x, y) for x, y in zip(leaves(found), targets, strict=True))

    def criterion(found: Any, targets: Any) -> Tensor:
        return PENALTIES[spec.penalty](base(found, targets), model, meaning)

    return criterion, inputs, targets


def _shapes(spec: Spec) -> list[tuple[int, ...]]:
    """The shapes of the tensors in the model's outputs."""
    samples = 1 if spec.inputs == "single" else spec.samples
    length = 1 if spec.inputs == "bag" else spec.length
    shape = (samples, length) if spec.inputs in SEQUENCE_INPUTS else (samples,)
    state = (samples, spec.width)
    return {
        "each": [(*shape, 3)],
        "tied": [(*shape, WORDS)],
        "column": [(samples, 1)],
        "flat": [(samples,)],
        "pooled": [(3,)],
        "scalar": [()],
        "tuple": [(samples, 3), state],
        "dict": [state, (samples, 3)],
        "dataclass": [(samples, 3), state],
    }.get(spec.head, [(samples, 3)])
