"""What torch's error messages mean: a status, and what to do."""

from __future__ import annotations

import re
import traceback

# What to take in place of the methods that a remedy names, where each sample's own derivatives are asked for.
_OF_EACH = "for each sample's own derivatives method=per_sample_rows or method=per_sample_loop"
_OUT_OF_MEMORY = "The method does not fit: use a smaller chunk_size, a method of rows, or a smaller problem."
# (status, pattern in the message, what to do); the first that matches counts.
_KNOWN = (
    ("oom", r"HOST_ALLOCATION_FAILED", f"A library of CUDA found too little memory of the CPU. {_OUT_OF_MEMORY}"),
    (
        "oom",
        r"(CUBLAS|CUDNN|CUSOLVER|CUSPARSE|CUFFT)_\w*ALLOC(ATION)?_FAILED",
        f"A library of CUDA found too little memory on the GPU. {_OUT_OF_MEMORY}",
    ),
    (
        "error",
        r"CUDNN_STATUS_INTERNAL_ERROR|CUBLAS_STATUS_(NOT_INITIALIZED|INTERNAL_ERROR)|CUSOLVER_STATUS_INTERNAL_ERROR|"
        r"unable to find an engine to execute|Unable to find a valid cuDNN algorithm",
        "A library of CUDA failed within, which mostly is too little memory on the GPU: use a smaller chunk_size, a "
        "smaller problem, or a GPU that nobody else uses. If it stays with cuDNN, set "
        "torch.backends.cudnn.enabled = False.",
    ),
    (
        "unsupported",
        r"cudnn RNN backward can only be called in training mode",
        "cuDNN's recurrent layers have no gradient in eval mode, and no second derivative in any mode: write `with "
        "torch.backends.cudnn.flags(enabled=False):` around the call that computes the Hessian.",
    ),
    (
        "unsupported",
        r"_cudnn_rnn|CuDNN RNN",
        "cuDNN's recurrent layers cannot be differentiated twice, in forward mode or under vmap: write `with "
        "torch.backends.cudnn.flags(enabled=False):` around the call that computes the Hessian.",
    ),
    (
        "unsupported",
        r"scaled_dot_product|flash_attention|efficient_attention|_native_multi_head_attention|"
        r"_transformer_encoder_layer_fwd",
        "torch's fused attention cannot be differentiated twice, by any method: write `with "
        "torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):` around the call that computes the "
        "Hessian, and torch.backends.mha.set_fastpath_enabled(False) before it.",
    ),
    (
        "unsupported",
        r"attempting to call Tensor\.requires_grad_\(\)",
        "The network asks for a gradient itself, by requires_grad_() in its forward pass, which the transforms of "
        "torch.func refuse: write torch.func.grad or torch.func.jvp there, or use a method without transforms, "
        f"method=create_graph_rows or method=factored; {_OF_EACH}.",
    ),
    (
        "error",
        r"does not require grad and does not have a grad_fn",
        "The gradient was computed without a graph of its own, so it cannot be differentiated again: pass "
        "create_graph=True to the first torch.autograd.grad (retain_graph=True only keeps the graph of the loss). If "
        "it was passed, the gradient is constant in the parameters and its derivative is zero.",
    ),
    (
        "error",
        r"appears to not have been used in the graph",
        "The gradient does not depend on one of the parameters: pass allow_unused=True or materialize_grads=True. But "
        "where the network itself takes a gradient in its inputs, the transforms of torch.func do not find it, and it "
        "would count as zero: write torch.func.grad there, or use method=create_graph_rows or method=factored; "
        f"{_OF_EACH}.",
    ),
    (
        "unsupported",
        r"ZeroTensors are immutable",
        "torch has no working jvp of this gradient (mse_loss is known for it, pytorch issues 112013 and 123996): use "
        f"reverse-over-reverse, method=vmap_hvp_reverse or method=create_graph_rows; {_OF_EACH}.",
    ),
    (
        "unsupported",
        r"\(got `self` of size \[1, \d+\]\)",
        "vmap batches the forward-mode derivative of an operation here wrongly: use a method that only goes backward, "
        f"method=vmap_hvp_reverse or method=create_graph_rows; {_OF_EACH}.",
    ),
    (
        "unsupported",
        r"forward AD|forward-mode|forward mode|jvp.*not implemented|decomposition for",
        "An operation here has no forward-mode rule in torch: use a method that only goes backward, "
        f"method=vmap_hvp_reverse or method=create_graph_rows; {_OF_EACH}.",
    ),
    (
        "unsupported",
        r"derivative for .* is not implemented|not implemented for .*double backward|trying to differentiate twice",
        "An operation here cannot be differentiated twice in torch: replace it by one that can, or by its formula.",
    ),
    (
        "unsupported",
        r"vmap: .*(in-place|inplace|randomness|data-dependent|\.item\(\))|Batching rule not implemented|"
        r"running statistics|running_mean|output with shape .* doesn't match the broadcast shape",
        "vmap cannot batch an operation here (in-place writes, recurrent layers, random draws, batch statistics): use "
        f"a loop, method=create_graph_rows ({_OF_EACH}), or put the model into eval mode.",
    ),
    (
        "unsupported",
        r"autograd\.Function with functorch transforms|don't yet support saved tensor hooks|"
        r"Cannot access data pointer of Tensor that doesn't have storage|random operations inside of vmap",
        "torch.func's transforms cannot see through a custom function, a hook or a random draw here: use a method that "
        f"only goes backward, method=create_graph_rows; {_OF_EACH}.",
    ),
    (
        "unsupported",
        r"get value out of a tracing tensor",
        "The loss depends on a tensor's value in Python, so that it cannot be traced: use a method of torch.",
    ),
    (
        "unsupported",
        r"operator torchvision::\w+ does not exist",
        "torchvision, which a peer imports, was built for another torch: install the build that matches, or "
        "pip uninstall torchvision, which no peer here needs.",
    ),
    (
        "error",
        r"target dtype to be Long|expected scalar type Long|nll_loss.* not implemented for '",
        "Targets that are numbers of classes are integers: targets.long().",
    ),
    (
        "error",
        r"0D or 1D target tensor expected|multi-target not supported",
        "Numbers of classes for outputs (N, classes) are of shape (N,): targets.squeeze(1).",
    ),
    (
        "error",
        r"Target -?\d+ is out of bounds",
        "Numbers of classes begin at 0 and are less than the number of the model's outputs.",
    ),
    (
        "oom",
        r"out of memory|can't allocate memory|Unable to allocate|cannot allocate memory",
        _OUT_OF_MEMORY,
    ),
)

LONGEST = 4_000  # characters of a message that are kept,
LONGEST_TRACE = 20_000  # and of a traceback, from its end


# What TorchScript writes before an operator's own message: a traceback with the paths of the machine.
_TORCHSCRIPT = re.compile(r"\AThe following operation failed in the TorchScript interpreter\..*\n(?=\w+: )", re.DOTALL)


def explain(error: BaseException) -> tuple[str, str]:
    """Status and message of a failure: the error's own words, then the remedy where it is known.

    A method refuses a problem by NotImplementedError, or by ArithmeticError where it cannot take the numbers:
    a singular matrix, or negative curvature. Subclasses of the latter, such as ZeroDivisionError, are faults.
    """
    words = text(error)
    message = type(error).__name__
    if words:
        message = f"{message}: {words}"
    message = message.split("\n\n")[0].strip()
    if isinstance(error, MemoryError):
        return "oom", f"{message}. {_OUT_OF_MEMORY}"
    for status, pattern, remedy in _KNOWN:
        if re.search(pattern, words, re.IGNORECASE):
            return status, f"{message} -> {remedy}"
    refused = isinstance(error, NotImplementedError) or type(error) is ArithmeticError
    return "unsupported" if refused else "error", message


def text(error: BaseException) -> str:
    """An exception's text, even where reading it raises: at most LONGEST characters, unprintable ones as escapes."""
    try:
        whole = str(error)
    except BaseException as unreadable:
        return f"(its text cannot be had: {type(unreadable).__name__})"
    whole = _TORCHSCRIPT.sub("", whole)
    cut = f" ... ({len(whole):,} characters)" if len(whole) > LONGEST else ""
    return _printable(whole[:LONGEST]) + cut


def trace(error: BaseException) -> str:
    """An exception's traceback: its last LONGEST_TRACE characters, unprintable ones as escapes."""
    try:
        return _printable("".join(traceback.format_exception(error))[-LONGEST_TRACE:])
    except BaseException as unreadable:
        return f"(its traceback cannot be had: {type(unreadable).__name__})"


def _printable(words: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in words)
