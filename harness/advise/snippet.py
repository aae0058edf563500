"""The lines of Python that compute a problem's quantity by one method."""

from __future__ import annotations

from harness.advise.advice import Advice, Survey
from harness.job import Job


def snippet(survey: Survey, advice: Advice) -> str:
    """A program that builds the problem and calls the method; `result` is what it returns."""
    job = advice.job
    module, _, function = job.target.rpartition(".")
    others = {"chosen": job.parameters, "split": job.batches, "subset": job.subset}
    names = ", ".join(["build", *(name for name, value in others.items() if value is not None)])
    lines = ["import torch", f"from harness.problems import {names}", f"from {module} import {function}", ""]
    if job.batches is not None:
        lines[2:2] = ["from harness.problems.batches import batches_of", "from methods.batches import summed"]
    if survey.attention is not None:
        lines[1:1] = ["from harness.problems import attention"]
        lines.append("attention.use_math()  # the fused kernels cannot be differentiated twice")
    if "seed" not in survey.builder_options:
        lines.append(f"torch.manual_seed({job.seed})")
    built = f"build({job.problem_target!r}, {survey.builder_options!r})"
    lines.append(f"problem = {built}.to({job.device!r}, torch.{job.dtype})")
    if job.parameters is not None:
        lines.append(f"problem = chosen(problem, {list(job.parameters)!r})")
    if job.batches is not None:
        lines.append(f"problem = split(problem, {job.batches}, {job.batch_weights!r})")
    if job.subset is not None:
        lines.append(f"problem = subset(problem, {job.subset}, {job.seed})")
    if "vectors" in advice.asks:
        lines.append(f"vectors = torch.randn({survey.params}, {job.vectors}).to(problem.theta)  # put yours here")
    called = function if job.batches is None else "summed"
    lines.append(f"result = {called}({_arguments(advice, function)})  # {_shape(survey, advice)}")
    return "\n".join(lines)


def _arguments(advice: Advice, function: str) -> str:
    """Each argument by its name, then the method's options; over batches first the function that is summed."""
    given = [f"{name}={_value(name, advice.job)}" for name in advice.asks]
    if advice.job.batches is not None:
        given = [function, "problem.model", "problem.criterion", "batches_of(problem)", "weights=problem.batch_weights"]
        given += [f"{name}={_value(name, advice.job)}" for name in ("sizes", "vectors") if name in advice.asks]
    return ", ".join([*given, *(f"{name}={value!r}" for name, value in advice.job.method_options.items())])


def _value(name: str, job: Job) -> str:
    if name in ("k", "damping"):
        return repr(getattr(job, name))
    return name if name == "vectors" else f"problem.{name}"


def _shape(survey: Survey, advice: Advice) -> str:
    """What the quantity is, in words."""
    params, job = survey.params, advice.job
    shapes = {
        "diagonal": f"({params},)",
        "block_diagonal": "a block for each parameter tensor",
        "hvp": f"({params}, {job.vectors})",
        "ihvp": f"({params}, {job.vectors})",
        "trace": "()",
        "eigenvalues": f"({job.k} + 1,): of largest magnitude, then the lowest",
        "spectrum": "nodes, weights and moments",
    }
    shape = shapes.get(job.quantity, f"({params}, {params})")
    return shape if advice.stated is None or job.quantity == "spectrum" else f"value: {shape}, with its error"
