"""Messages of torch, provoked in earnest, and what the reader is told to do."""

import pytest
import torch
import torch.fx.experimental.proxy_tensor
from torch.func import functional_call, grad, jvp, vmap

from harness.problems import functions, networks
from harness.problems.torch_messages import explain
from methods import autograd_functional, double_loop, vmap_hvp


def no_create_graph():
    problem = functions.logistic(bias=False)
    double_loop.hessian(problem.model, problem.criterion, problem.inputs, problem.targets, create_graph=False)


def no_forward_rule():
    problem = networks.mlp(task="regression", batch=4)
    vmap_hvp.hessian(problem.loss, problem.theta)


def no_batching_rule():
    problem = functions.quadratic()
    autograd_functional.hessian(problem.loss, problem.theta, True, "forward-mode")


def fused_attention():
    q = torch.randn(1, 1, 4, 8, requires_grad=True)
    out = torch.nn.functional.scaled_dot_product_attention(q, q, q).sum()
    (g,) = torch.autograd.grad(out, q, create_graph=True)
    torch.autograd.grad(g.sum(), q)


def batch_norm_under_vmap():
    model = torch.nn.BatchNorm1d(3)
    theta = dict(model.named_parameters())
    x = torch.randn(5, 3)
    vmap(lambda s: functional_call(model, theta, (s * x,)).sum())(torch.ones(2))


def in_place_under_vmap():
    def loss(x):
        y = torch.zeros(3)
        y[0] = x.sum()
        return y.sum()

    vmap(loss)(torch.ones(2, 3))


def dropout_under_vmap():
    vmap(torch.nn.functional.dropout)(torch.ones(2, 3))


def item_under_vmap():
    vmap(lambda x: x * x.item())(torch.ones(2))


def embedding_bag():
    bag = torch.nn.EmbeddingBag(4, 2)
    index = torch.tensor([[0, 1]])
    loss = lambda w: functional_call(bag, {"weight": w}, (index,)).square().sum()  # noqa: E731
    jvp(grad(loss), (bag.weight.detach(),), (torch.ones(4, 2),))


def recurrent_under_vmap():
    layer = torch.nn.LSTM(2, 3, batch_first=True)
    torch.func.vmap(lambda x: layer(x[None])[0])(torch.ones(4, 5, 2))


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * x

    @staticmethod
    def backward(ctx, slope):
        return slope


def custom_function():
    grad(lambda x: Square.apply(x).sum())(torch.ones(2))


def hook():
    def loss(x):
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
            return x.square().sum()

    grad(loss)(torch.ones(2))


def traced_item():
    torch.fx.experimental.proxy_tensor.make_fx(lambda x: x * x.sum().item())(torch.ones(2))


def out_of_memory():
    torch.empty(1 << 50)


@pytest.mark.parametrize(
    ("provoke", "status", "words"),
    [
        (no_create_graph, "error", "pass create_graph=True to the first torch.autograd.grad"),
        (no_forward_rule, "unsupported", "method=vmap_hvp_reverse"),
        (no_batching_rule, "unsupported", "only goes backward"),
        (fused_attention, "unsupported", "SDPBackend.MATH"),
        (batch_norm_under_vmap, "unsupported", "eval mode"),
        (in_place_under_vmap, "unsupported", "in-place writes"),
        (dropout_under_vmap, "unsupported", "random draws"),
        (item_under_vmap, "unsupported", "vmap cannot batch"),
        (recurrent_under_vmap, "unsupported", "for each sample's own derivatives method=per_sample_rows"),
        (embedding_bag, "unsupported", ""),
        (custom_function, "unsupported", "cannot see through a custom function"),
        (hook, "unsupported", "a hook"),
        (traced_item, "unsupported", "cannot be traced"),
        (out_of_memory, "oom", "smaller chunk_size"),
    ],
)
def test_a_message_of_torch_is_explained(provoke, status: str, words: str) -> None:
    with pytest.raises(Exception) as error:  # noqa: PT011
        provoke()
    found, message = explain(error.value)
    assert (found, words in message) == (status, True), message
    assert type(error.value).__name__ in message


CUDNN_RNN = (
    "the derivative for '_cudnn_rnn_backward' is not implemented. Double backwards is not supported for CuDNN RNNs due "
    "to limitations in the CuDNN API. To run double backwards, please disable the CuDNN backend temporarily"
)


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "oom", "smaller chunk_size"),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "oom", "smaller chunk_size"),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", "oom", "smaller chunk_size"),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED", "oom", "too little memory of the CPU"),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR", "error", "too little memory on the GPU"),
        ("cudnn RNN backward can only be called in training mode", "unsupported", "no gradient in eval mode"),
        ("GET was unable to find an engine to execute this computation", "error", "too little memory on the GPU"),
        (CUDNN_RNN, "unsupported", "torch.backends.cudnn.flags(enabled=False):` around the call"),
        (
            "Trying to use forward AD with _cudnn_rnn that does not support it because it is not implemented yet.",
            "unsupported",
            "torch.backends.cudnn.flags(enabled=False):` around the call",
        ),
        ("CUDA out of memory. Tried to allocate 2.00 GiB.", "oom", "smaller chunk_size"),
    ],
)
def test_a_message_of_cuda_is_explained(text: str, status: str, words: str) -> None:
    found, message = explain(RuntimeError(text))
    assert (found, words in message) == (status, True), message


def test_what_is_not_known_is_passed_on() -> None:
    assert explain(KeyError("x")) == ("error", "KeyError: 'x'")
    assert explain(NotImplementedError("not yet")) == ("unsupported", "NotImplementedError: not yet")
    assert explain(MemoryError())[0] == "oom"


def test_the_traceback_of_torchscript_is_left_out():
    text = (
        "The following operation failed in the TorchScript interpreter.\n"
        'Traceback of TorchScript (most recent call last):\n  File "/home/me/torch/_decomp/x.py", line 1, in f\n'
        "    return a * b\n           ~~~~~ <--- HERE\n"
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory\n"
    )
    status, message = explain(RuntimeError(text))
    assert status == "oom"
    assert message.startswith("RuntimeError: RuntimeError: [enforce fail")
    assert "/home" not in message
