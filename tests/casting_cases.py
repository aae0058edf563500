"""Builders of problems that keep float tensors in many places; `from tests import casting_cases`."""

import collections
import dataclasses
import functools
import types

import torch
from torch import nn
from torch.nn import functional as F

from harness.problems import from_function, from_network

MIX = torch.linspace(-1, 1, 9).reshape(3, 3)
HELD = {"scale": [torch.tensor(0.7)]}
torch.manual_seed(3)
NETWORK = nn.Sequential(nn.Linear(3, 2), nn.Tanh())


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def drawn():
    torch.manual_seed(1)
    return torch.randn(6, 3), torch.randint(0, 2, (6,))


def classes(model=None, criterion=None, inputs=None):
    x, y = drawn()
    return from_network(model or net(), criterion or nn.CrossEntropyLoss(), x if inputs is None else inputs, y)


class Keeping(nn.Module):
    """Keeps activations in an attribute, a list, a dict and a dataclass."""

    def __init__(self):
        super().__init__()
        self.net, self.kept, self.seen, self.batch = net(), [], {}, Batch(torch.ones(1))
        self.last = None

    def forward(self, x):
        self.last = self.net[0](x)
        self.kept = [self.last]
        self.seen["hidden"] = self.last.tanh()
        self.batch.x = self.last
        return self.net[2](self.seen["hidden"])


@dataclasses.dataclass
class Batch:
    x: torch.Tensor
    mask: torch.Tensor | None = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: torch.Tensor
    more: tuple = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Slots:
    x: torch.Tensor


class Output(collections.OrderedDict):
    """A dict whose entries are attributes too."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class OfBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, batch):
        return self.net(batch["x"] if isinstance(batch, collections.UserDict) else batch.x)


class Mixing(nn.Module):
    """Multiplies its inputs by a matrix that `matrix(self)` finds."""

    def __init__(self, matrix, **held):
        super().__init__()
        self.net, self.matrix = net(), matrix
        vars(self).update(held)

    def forward(self, x):
        return self.net(x @ self.matrix(self))


class OfGlobal(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net(x @ mixed() * HELD["scale"][0])


def mixed():
    return MIX + 1


class Weighted:
    """A criterion that is an object."""

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, outputs, targets):
        return F.cross_entropy(outputs, targets, weight=self.weight)

    def sum(self, outputs, targets):
        return F.cross_entropy(outputs, targets, weight=self.weight, reduction="sum")


def of_default(outputs, targets, weight=torch.tensor([0.3, 0.7])):  # noqa: B008
    return F.cross_entropy(outputs, targets, weight=weight)


def class_of_closure():
    matrix = torch.eye(3) + 0.5

    class OfClosure(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x):
            return self.mixed(self.net(x @ matrix))

        def mixed(self, y):
            return y * matrix[0, 0]

    return classes(OfClosure())


def recursive():
    weights = [torch.tensor([0.3, 0.7]), torch.tensor([0.2, 0.1])]

    def total(outputs, targets, depth=1):
        own = F.cross_entropy(outputs, targets, weight=weights[depth])
        return own if not depth else own + total(outputs, targets, depth - 1)

    return classes(criterion=total)


def forces():
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    return from_function(lambda positions: network(positions).square().sum(), torch.randn(2, 3))


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.re, self.im = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)
        self.register_buffer("phase", torch.polar(torch.ones(2), torch.tensor([0.3, 1.1])))
        self.shift = torch.tensor([0.1 + 0.2j, -0.4j])

    def forward(self, z):
        return (z @ torch.complex(self.re.weight, self.im.weight).T * self.phase + self.shift).abs()


class Propagated(nn.Module):
    def __init__(self, adjacency=None):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("adjacency", adjacency)

    def forward(self, x, adjacency=None):
        adjacency = self.adjacency if adjacency is None else adjacency
        return adjacency @ self.b(torch.tanh(adjacency @ self.a(x)))


def adjacency():
    torch.manual_seed(4)
    return (torch.rand(6, 6) < 0.4).float() + torch.eye(6)


def differential(outputs, x):
    (slope,) = torch.autograd.grad(outputs.sum(), x, create_graph=True)
    return slope


class Slope(nn.Module):
    """A network whose output is differentiated in its inputs, which must require a gradient."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, x, t=None):
        return differential(self.net(x if t is None else torch.cat([x, t], 1)), x)


def of_requiring(*shape, named=False):
    torch.manual_seed(5)
    x = torch.randn(*shape, requires_grad=True)
    if shape[1] == 2:
        inputs = x
    else:
        t = torch.randn(*shape, requires_grad=True)
        inputs = {"x": x, "t": t} if named else (x, t)
    return from_network(Slope(), lambda outputs, _: outputs.square().mean(), inputs)


WEIGHT = torch.tensor([0.3, 0.7])
CASES = {
    "kept_activations": lambda: classes(Keeping()),
    "attribute": lambda: classes(Mixing(lambda self: self.held, held=torch.randn(3, 3))),
    "attribute_of_list": lambda: classes(Mixing(lambda self: self.held[0]["a"], held=[{"a": torch.randn(3, 3)}])),
    "attribute_of_dataclass": lambda: classes(Mixing(lambda self: self.held.x, held=Frozen(torch.randn(3, 3)))),
    "attribute_of_object": lambda: classes(
        Mixing(lambda self: self.held.x, held=types.SimpleNamespace(x=torch.randn(3, 3)))
    ),
    "closure": lambda weight=WEIGHT: classes(criterion=lambda o, y: F.cross_entropy(o, y, weight=weight)),
    "default": lambda: classes(criterion=of_default),
    "partial": lambda: classes(criterion=functools.partial(F.cross_entropy, weight=WEIGHT)),
    "nested_partial": lambda: classes(criterion=functools.partial(functools.partial(of_default), weight=2 * WEIGHT)),
    "bound_method": lambda: classes(criterion=Weighted(WEIGHT).sum),
    "object": lambda: classes(criterion=Weighted(WEIGHT)),
    "module": lambda: classes(criterion=nn.CrossEntropyLoss(weight=WEIGHT)),
    "global": lambda: classes(OfGlobal()),
    "global_network": lambda: from_function(lambda x: NETWORK(x).square().sum(), torch.ones(2, 3)),
    "global_in_function": lambda: from_function(
        lambda x: (x @ mixed() * HELD["scale"][0]).square().sum(), torch.eye(3)
    ),
    "class_of_closure": class_of_closure,
    "recursive": recursive,
    "closed_over_network": forces,
    "network_as_data": lambda: from_function(lambda x, model: model(x).square().sum(), torch.randn(2, 3), (net(),)),
    "networks_in_data": lambda: from_function(
        lambda x, nets: sum(model(x).square().sum() for model in nets["all"]), torch.randn(2, 3), ({"all": [net()]},)
    ),
    "dataclass": lambda: classes(OfBatch(), inputs=Batch(drawn()[0])),
    "frozen_dataclass": lambda: classes(OfBatch(), inputs=Frozen(drawn()[0], (torch.ones(1),))),
    "slots": lambda: classes(OfBatch(), inputs=Slots(drawn()[0])),
    "ordered_dict": lambda: classes(OfBatch(), inputs=Output(x=drawn()[0])),
    "user_dict": lambda: classes(OfBatch(), inputs=collections.UserDict(x=drawn()[0])),
    "named_tuple": lambda: classes(
        Propagated(), inputs=collections.namedtuple("Both", "x adjacency")(drawn()[0], adjacency())
    ),
    "complex": lambda: classes(Complex(), inputs=torch.randn(6, 3, dtype=torch.cfloat)),
    "sparse_coo_input": lambda: classes(Propagated(), inputs=(drawn()[0], adjacency().to_sparse_coo())),
    "sparse_coo_buffer": lambda: classes(Propagated(adjacency().to_sparse_coo())),
    "sparse_csr_buffer": lambda: classes(Propagated(adjacency().to_sparse_csr())),
    "input_that_requires_grad": lambda: of_requiring(5, 2),
    "inputs_that_require_grad": lambda: of_requiring(5, 1),
    "named_inputs_that_require_grad": lambda: of_requiring(5, 1, named=True),
}
