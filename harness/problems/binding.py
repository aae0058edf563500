"""From a job to a call: a method bound to a problem, with the arguments that it asks for by name."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from harness.job import METHOD_ARGUMENTS, NETWORK_ARGUMENTS, OVER_BATCHES, PROBLEM_ARGUMENTS, SAMPLE_ARGUMENTS, Job
from harness.problems.batches import batches_of
from harness.problems.mesh import mesh_of
from harness.problems.method_source import MethodError, Unsupported, function_of
from harness.problems.modes import in_mode
from harness.problems.problem import Problem

NOT_ADDITIVE = ("eigenvalues", "spectrum", "ihvp")  # quantities of a sum that are no sums of those of its terms


@dataclass(frozen=True)
class BoundMethod:
    """A method bound to a problem, with the job that asks for it."""

    job: Job
    problem: Problem
    vectors: Tensor | None  # (P, k) for an hvp; of each sample's own, a method is given them as (N, D, k)
    call: Callable[[], Any]  # the measured call
    offered: dict[str, Any] = field(default_factory=dict)  # the arguments that a method may ask for, by name

    @property
    def device(self) -> torch.device:
        """The device of the problem's tensors."""
        return self.problem.theta.device


def vectors_of(job: Job, theta: Tensor) -> Tensor | None:
    """The vectors (P, k) of an hvp or ihvp, standard normal, of the same dtype and device as theta; else None."""
    if job.quantity not in ("hvp", "ihvp"):
        return None
    generator = torch.Generator().manual_seed(job.seed + 1)
    return torch.randn(theta.numel(), job.vectors, generator=generator, dtype=torch.float64).to(theta)


def bind(job: Job, problem: Problem) -> BoundMethod:
    """Find the method and give it the arguments that it asks for by name.

    Raises MethodError for a wrong path or option, Unsupported where the method has no such quantity or needs a
    network and the problem is a function, computes in one process and the job asks for several, or computes with JAX
    and the job asks for a mode of torch.
    """
    function = function_of(job)
    vectors = vectors_of(job, problem.theta)
    parameters = inspect.signature(function).parameters
    _require_processes(job, parameters)
    _require_kind(job, parameters)
    offered = {name: getattr(problem, name) for name in (*PROBLEM_ARGUMENTS, *NETWORK_ARGUMENTS, *SAMPLE_ARGUMENTS)}
    offered |= {"vectors": _offered_vectors(problem, vectors), "k": job.k, "damping": job.damping}
    if "mesh" in parameters:
        offered["mesh"] = mesh_of(problem.theta.device)
    arguments = {name: offered[name] for name in parameters if name in offered}
    _require_arguments(job, problem, arguments)
    _require_options(job, parameters)
    if job.mode is not None and "jax" in sys.modules:
        raise Unsupported(f"mode={job.mode} is one of torch, and {job.target} computes with JAX; use a method of torch")
    if problem.batch_sizes is not None:
        function, arguments = _over_batches(job, problem, function, arguments)
    called = in_mode(job.mode, function, problem.theta.device)
    return BoundMethod(job, problem, vectors, lambda: called(**arguments, **job.method_options), offered)


def _over_batches(
    job: Job, problem: Problem, function: Callable[..., Any], asked: Mapping[str, Any]
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function that adds up the method's results over the problem's batches, and its arguments.

    `asked` holds those that the method asks for by name. Raises Unsupported for a quantity that is no sum.
    """
    if job.quantity in NOT_ADDITIVE:
        raise Unsupported(
            f"quantity={job.quantity} is no sum over batches; set problem.batches=null, or take one batch"
        )
    arguments = {
        "model": problem.model,
        "criterion": problem.criterion,
        "batches": batches_of(problem),
        "weights": problem.batch_weights,
    }
    arguments |= {name: asked[name] for name in ("sizes", "vectors", "mesh") if name in asked}
    return partial(function_of(replace(job, target=OVER_BATCHES)), function), arguments


def _require_processes(job: Job, parameters: Mapping[str, inspect.Parameter]) -> None:
    """Raise Unsupported where several processes are asked for and the method computes in one."""
    if job.processes > 1 and "mesh" not in parameters:
        raise Unsupported(
            f"{job.target} computes in one process, and processes={job.processes} was asked for; take a method that "
            "asks for `mesh`, such as sharded_vmap_hvp or sharded_factored, or processes=1"
        )


def _offered_vectors(problem: Problem, vectors: Tensor | None) -> Tensor | None:
    """The vectors (P, m) as a method is given them: (N, D, m) where each sample has its own."""
    if vectors is None or problem.points is None:
        return vectors
    return vectors.view(*problem.points.shape, -1)


def _require_kind(job: Job, parameters: Mapping[str, inspect.Parameter]) -> None:
    """Raise Unsupported unless each sample's own derivatives are asked for and computed, or neither.

    A method computes them if it asks for `points`.
    """
    of_each = "points" in parameters
    if job.per_sample and not of_each:
        raise Unsupported(
            f"{job.target} computes one {job.quantity} of all samples together, and each sample's own was asked for "
            f"(wrt={job.wrt} per_sample=true); take a method that asks for `points`, such as per_sample_jacfwd_grad, "
            "or wrt=parameters per_sample=false"
        )
    if of_each and not job.per_sample:
        raise Unsupported(
            f"{job.target} computes each sample's own {job.quantity}; set per_sample=true, or wrt=inputs, or take "
            "another method"
        )
    if of_each and job.wrt == "inputs" and "model" in parameters:
        raise Unsupported(
            f"{job.target} computes derivatives in the parameters, and wrt=inputs was asked for; take "
            "wrt=parameters, or another method"
        )


def _require_arguments(job: Job, problem: Problem, arguments: Mapping[str, Any]) -> None:
    """Raise Unsupported where the problem lacks an argument: all but the vectors are there if its model is."""
    has_network = problem.model is not None
    absent = [
        name
        for name, value in arguments.items()
        if name not in (*PROBLEM_ARGUMENTS, *SAMPLE_ARGUMENTS, "k", "damping", "mesh")
        and (value is None if name == "vectors" else not has_network)
    ]
    if absent:
        raise Unsupported(
            f"{job.target} asks for {', '.join(absent)}, which problem={job.problem} with quantity={job.quantity} does "
            "not have; use a problem that is a network, or a method that takes loss and theta"
        )


def _require_options(job: Job, parameters: Mapping[str, inspect.Parameter]) -> None:
    """Raise MethodError for an option that the method does not have."""
    options = [name for name in parameters if name not in METHOD_ARGUMENTS]
    unknown = [name for name in job.method_options if name not in options]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if unknown and not takes_any:
        shown = ", ".join(options) or "none"
        raise MethodError(f"method.{unknown[0]} is no option of {job.target}; its options are: {shown}")
