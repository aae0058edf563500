"""The schema of a record: its fields, their types, units and meanings, and what is added on loading."""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA_VERSION = 10
OLDEST = 2  # schema that is still read: later ones added fields, and 8 dropped two

SKETCH = 32  # entries of a sketch
DEEPEST = 20  # lists and objects within one another in an option
LONGEST = 2**20  # characters of a text, entries of a list
# Ends of the numbers of a unit, beside 0: what is outside was not measured. Products and ratios of three stay finite.
ENDS = {
    "count": (1, 2**62 - 1),
    "bytes": (1, 2**62 - 1),
    "s": (1e-12, 1e12),
    "GB": (1e-12, 1e12),
    "share": (1e-12, 1e12),
    "1/s": (1e-12, 1e24),
    "bytes/s": (1e-12, 1e24),
}
COUNTERS = ("operations", "allocations", "flops", "tensor_peak_bytes")  # the same in every process of the same code
STATUSES = ("ok", "unsupported", "nonfinite", "wrong", "oom", "timeout", "crashed", "error")


# What a field has to do with the benchmark cell that its record is of. `harness.record.identity` derives every list of
# columns from this.
PARTS = {
    "problem": "which problem was solved",
    "method": "by which method",
    "setting": "every other setting that was asked for",
    "sampling": "how the cell was sampled and judged",
    "code": "whose code ran it: in this a baseline and a candidate differ",
    "versions": "versions of the packages that ran it",
    "machine": "the machine that ran it",
    "process": "a field in which the records of one cell may differ: it says which process ran, or what was measured",
    "": "a result of the run, or a fact that no cell depends on",
}


@dataclass(frozen=True)
class Field:
    """One column: its name (the unit is in it), its JSON type, its unit, its meaning, and its part of the cell."""

    name: str
    type: str  # str, int, float, bool, list[float]; every field but the first three may be null
    unit: str
    meaning: str
    part: str = ""  # of PARTS


FIELDS = (
    Field("schema_version", "int", "", "version of this schema; CHANGELOG.md tells what changed"),
    Field("status", "str", "", "one of: " + ", ".join(STATUSES)),
    Field("started", "str", "ISO 8601, UTC", "when the cell began"),
    Field("message", "str", "", "why the status is not ok and what to do, or what to know about the row"),
    Field("traceback", "str", "", "where the method or the problem failed"),
    # What was asked: the job.
    Field("problem", "str", "", "row of conf/problem", part="problem"),
    Field("problem_target", "str", "dotted path", "the function that built it", part="problem"),
    Field("problem_options", "str", "JSON", "every option the problem was built with", part="problem"),
    Field("method", "str", "", "row of conf/method", part="method"),
    Field("method_options", "str", "JSON", "every option the method was called with", part="method"),
    Field("target", "str", "dotted path", "the function that was measured", part="method"),
    Field(
        "quantity",
        "str",
        "",
        "hessian, diagonal, block_diagonal, hvp, ggn, eigenvalues, trace, spectrum or ihvp",
        part="setting",
    ),
    Field("vectors", "int", "count", "vectors of an hvp or ihvp", part="setting"),
    Field("k", "int", "count", "eigenvalues of the largest magnitude, of quantity=eigenvalues", part="setting"),
    Field(
        "damping", "float", "", "added to the diagonal, of ihvp and of an approximation's Newton step", part="setting"
    ),
    Field("wrt", "str", "", "parameters or inputs: the variables of the derivatives", part="setting"),
    Field("per_sample", "bool", "", "whether each sample has derivatives of its own", part="setting"),
    Field(
        "parameters", "str", "", "patterns of the names of the parameters that were taken; null for all", part="setting"
    ),
    Field("subset", "int", "count", "parameters that were taken, the others being fixed; null for all", part="setting"),
    Field("device", "str", "", "cpu, cuda or cuda:N", part="setting"),
    Field("dtype", "str", "", "float64, float32, float16 or bfloat16", part="setting"),
    Field("threads", "int", "count", "intra-operation threads of torch", part="setting"),
    Field("mode", "str", "", "autocast, compiled or deterministic; null for torch as it is", part="setting"),
    Field("allocator", "str", "", "default (glibc's own settings) or tuned (results/README.md)", part="setting"),
    Field(
        "seed", "int", "", "seed of the problem's parameters and data, and of the vectors and probes", part="setting"
    ),
    Field("round", "int", "", "which repetition of the cell, each in fresh processes", part="process"),
    Field("interpreter", "str", "path", "the Python that ran the cell; null for the harness's own", part="code"),
    Field("code", "str", "path", "folder whose modules came before all others; null for none", part="code"),
    Field("limit_s", "float", "s", "time limit of each pass", part="sampling"),
    Field(
        "memory_limit_gb",
        "float",
        "GB",
        "limit of each pass: on the CPU on private memory above the start, on a GPU on what torch reserves above the "
        "start; null for none",
        part="setting",
    ),
    Field("passes", "str", "", "what was measured, of: time, exact, process, agreement", part="process"),
    Field("measure", "str", "JSON", "options of sampling and of agreement", part="sampling"),
    Field("cell_s", "float", "s", "wall time of the cell, all its passes with their processes"),
    Field("worked_s", "float", "s", "part of it in which the problem was built and measured"),
    Field(
        "attempt",
        "int",
        "",
        "1, or 2 where `resume` has retried a crashed cell; on a cluster one more for each job that ended while it ran",
    ),
    Field(
        "look",
        "int",
        "",
        "0, or 1 and 2 for a process that ran because the first or second comparison was undecided",
    ),
    Field(
        "method_hash",
        "str",
        "",
        "SHA-256 of the method's source, of what it imports that is not installed, and of its options",
    ),
    Field(
        "problem_hash",
        "str",
        "",
        "SHA-256 of the source of the problem's builder, and of what it imports that is not installed",
    ),
    Field("packages", "str", "", "packages beside torch that the method uses, with their versions", part="versions"),
    # What was seen: size and time.
    Field("params", "int", "count", "P, the number of parameters"),
    Field("whole_params", "int", "count", "parameters of the problem, where some of them were taken; null for all"),
    Field("samples", "int", "count", "N, the length of the inputs; null for a function without inputs"),
    Field(
        "first_s", "float", "s", "the first call, in a process in which only the loss and one gradient have been called"
    ),
    Field(
        "warmup_s",
        "list[float]",
        "s",
        "wall time of a call, for each call or, on a GPU, block of calls between the first and the samples",
    ),
    Field("times_s", "list[float]", "s", "wall time of a call, for each sample after warm-up"),
    Field("events_s", "list[float]", "s", "the same by CUDA events; null on the CPU"),
    Field("gpu_busy_s", "float", "s", "time in which the GPU computes or copies during one call, by torch's profiler"),
    Field("gpu_busy_missing", "str", "", "why gpu_busy_s is null on a GPU"),
    Field("calls_per_sample", "int", "count", "calls in the block that a sample is the mean of"),
    Field("sampling_ended", "str", "", "why: precision (reached), budget (spent) or maximum (of samples)"),
    Field("gradient_s", "list[float]", "s", "wall time of one gradient, sampled alike in the same process"),
    Field("compiled_graphs", "int", "count", "graphs that torch.compile made; null where it was not called"),
    Field("graph_breaks", "int", "count", "places where it fell back to Python"),
    # Memory.
    Field("tensor_peak_bytes", "int", "bytes", "peak of tensor memory over the call, above its start; null for JAX"),
    Field("tensor_peak_missing", "str", "", "why tensor_peak_bytes is null on a GPU, but for JAX"),
    Field("allocated_peak_bytes", "int", "bytes", "the same in the blocks of torch's allocator on a GPU"),
    Field("reserved_peak_bytes", "int", "bytes", "the same of what this allocator holds of the GPU's memory"),
    Field("process_peak_bytes", "int", "bytes", "peak of the process's resident memory, above its start (Linux)"),
    Field("output_bytes", "int", "bytes", "size of the result"),
    # Several processes (ranks) that compute one result. Times and memory above are those of the slowest and of the
    # largest one; operations, allocations and FLOPs are sums over all.
    Field("processes", "int", "count", "processes that compute one result together", part="setting"),
    Field("ranks_tensor_peak_bytes", "list[float]", "bytes", "tensor_peak_bytes of each rank; null for one process"),
    Field("ranks_process_peak_bytes", "list[float]", "bytes", "process_peak_bytes of each rank; null for one process"),
    Field(
        "communicated_bytes",
        "int",
        "bytes",
        "that the ranks give to collectives in one call, summed; null for one process",
    ),
    Field(
        "communication_s",
        "float",
        "s",
        "time of the collectives of one call, with waiting for other ranks, by torch's profiler: the largest rank's",
    ),
    # Counters: the same in every process.
    Field("operations", "int", "count", "ATen operators dispatched by one call, views included; null if compiled"),
    Field("allocations", "int", "count", "allocations of tensor memory by one call"),
    Field("flops", "int", "count", "floating-point operations of matrix products, convolutions and attention"),
    # What the machine can do, and what else it did.
    Field("gemm_flops_per_s", "float", "1/s", "attainable rate of a square matrix product at this dtype and threads"),
    Field("write_bytes_per_s", "float", "bytes/s", "attainable rate of writing memory"),
    Field("sampling_wall_s", "float", "s", "wall time of all samples"),
    Field("sampling_cpu_s", "float", "s", "processor time of the process meanwhile"),
    Field(
        "sampling_waiting_s",
        "float",
        "s",
        "the longest that one thread of the process was ready meanwhile, and waited for a processor (Linux)",
    ),
    Field(
        "cpu_pressure",
        "float",
        "share",
        "of the time from the first call to the last sample in which some process waited for a processor (Linux PSI)",
    ),
    Field(
        "sm_clock_mhz",
        "list[float]",
        "MHz",
        "clock of the GPU's multiprocessors, just after samples that are at least 0.02 s apart (NVML)",
    ),
    Field("memory_clock_mhz", "list[float]", "MHz", "clock of its memory, likewise"),
    Field("gpu_temperature_c", "list[float]", "°C", "its temperature, likewise"),
    Field(
        "gpu_power_mw", "list[float]", "mW", "the power that it takes, likewise; newer GPUs average it over one second"
    ),
    Field("throttle_reasons", "list[float]", "bits", "why its clocks were low, likewise: NVML's clocks event reasons"),
    Field(
        "power_throttled_s",
        "float",
        "s",
        "time in which the power limit held its clocks down while samples were taken and looked at, by NVML's counter",
    ),
    Field("heat_throttled_s", "float", "s", "the same of its temperature"),
    Field("gpu_watched_s", "float", "s", "wall time in which these two were counted"),
    Field("nvml_missing", "str", "", "what NVML did not report of the GPU, and why; null where it reported all"),
    # Agreement.
    Field("reference", "str", "", "closed_form, double_backward or central_differences, in float64 on the CPU"),
    Field("reference_error", "float", "relative", "its distance from central differences, or these ones' own error"),
    Field("probes", "int", "count", "directions that were compared; null where every entry was"),
    Field(
        "compared", "float", "share", "of the result's rows, or of a diagonal's entries, that were compared one by one"
    ),
    Field("inner_dtype", "str", "", "coarsest precision within the loss; null where none is below dtype"),
    Field("requires_grad", "bool", "", "whether the result requires grad, and so keeps its graph in memory"),
    Field("relative_error", "float", "relative", "Frobenius distance from the reference over its Frobenius norm"),
    Field("worst_error", "float", "relative", "largest entry's error over the largest entry of its reference row"),
    Field("asymmetry", "float", "relative", "Frobenius norm of H - H^T over that of H"),
    Field("nonfinite", "int", "count", "entries that are NaN or infinite"),
    Field("tolerance", "float", "relative", "largest relative_error that is ok at this dtype and reference"),
    Field("estimate_probes", "int", "count", "independent probes of a random estimate; null for an exact method"),
    Field("standard_error", "float", "relative", "norm of a random estimate's standard errors over the true norm"),
    Field("products", "int", "count", "Hessian-vector products, or gradients in their place, that the method spent"),
    Field("stated_error", "float", "relative", "what a result states of its own error, over the true norm"),
    Field(
        "covered",
        "bool",
        "",
        "whether the truth is within what a result states of its error: for a random estimate its 95 % interval",
    ),
    Field(
        "approximation",
        "bool",
        "",
        "whether the result is an approximation of the quantity; its error is then no fault",
    ),
    Field("cosine", "float", "", "of an approximation with the true matrix, in the Frobenius inner product"),
    Field(
        "newton_error", "float", "relative", "distance of the damped Newton step by an approximation from the true one"
    ),
    Field("logdet_error", "float", "", "log det of a damped approximation minus that of the damped true matrix, by P"),
    Field("hessian_distance", "float", "relative", "Frobenius distance of a GGN from the Hessian over that one's norm"),
    Field(
        "sketch", "list[float]", "", "32 random linear functions of the result, the same for all results of its shape"
    ),
    Field("operators", "str", "", "operators of the loss's graph, with which of their inputs depend on the parameters"),
    Field(
        "attention",
        "str",
        "",
        "of torch's own attention: math (from matrix products) or fused (the loss asks for it); null where it has none",
    ),
    Field("warnings", "str", "", "what Python and torch warned of while the loss was evaluated and the method called"),
    Field("explained", "str", "", "parameters that the method does otherwise than it is meant to, and why, if it says"),
    # Where.
    Field("torch", "str", "", "torch version", part="versions"),
    Field("python", "str", "", "Python version"),
    # Where on a cluster, by Slurm; null on a machine of one's own.
    Field("node", "str", "", "node of the cluster that ran it", part="machine"),
    Field("slurm_job", "str", "", "job of Slurm that ran it"),
    Field(
        "co_scheduled",
        "bool",
        "",
        "whether another job ran on the node meanwhile, or the job had fewer cores than threads; null where this is "
        "not known",
    ),
    Field("platform", "str", "", "operating system", part="machine"),
    Field("cpu", "str", "", "CPU model", part="machine"),
    Field("cores", "int", "count", "cores that the process may use", part="machine"),
    Field("ram_bytes", "int", "bytes", "physical memory"),
    Field("gpu", "str", "", "GPU model, where the cell ran on one", part="machine"),
    Field("cuda", "str", "", "CUDA version torch was built for, where the cell ran on a GPU"),
    Field("driver", "str", "", "GPU driver, where the cell ran on one", part="machine"),
    Field("cudnn", "int", "", "cuDNN version, where the cell ran on a GPU"),
    Field("blas", "str", "", "BLAS that torch was built with"),
    Field("governor", "str", "", "frequency governor of the CPU, where Linux tells", part="machine"),
    Field("tf32", "bool", "", "whether TF32 was allowed (the harness switches it off)"),
    Field("deterministic", "bool", "", "whether deterministic algorithms were asked for"),
    Field("omp_wait_policy", "str", "", "OMP_WAIT_POLICY of the process"),
    Field("commit", "str", "", "commit of the code: of the folder `code`, or else of the harness"),
    Field("dirty", "bool", "", "whether its files differed from that commit"),
)

NAMES = tuple(field.name for field in FIELDS)

# What `load` adds: (name, unit, meaning).
DERIVED = (
    ("median_s", "s", "median of times_s; first_s where the time ran out before a second call"),
    ("fastest_s", "s", "least of times_s"),
    (
        "gemm_equivalents",
        "GEMMs",
        "median_s over the time of N P^2 FLOPs (a Hessian's, by matrix products, of dense layers) at gemm_flops_per_s",
    ),
    ("write_multiples", "writes", "median_s over the time to write output_bytes at write_bytes_per_s"),
    (
        "contended",
        "",
        "whether, while samples were taken, the process got under 90 % of its processor, a thread of it waited for one "
        "over 10 % of the time, or the GPU throttled over 10 % of the time; or the cell was co_scheduled",
    ),
    (
        "throttled",
        "share",
        "of the sampling in which power, heat or a fault held the GPU's clocks down: the most that NVML's counters and "
        "throttle_reasons show",
    ),
    ("throttled_by", "", "where that is over 10 %, what held its clocks down, each cause with its share"),
    ("gpu_busy", "share", "gpu_busy_s over the median of times_s; in the rest the GPU waits for the CPU"),
    ("gradients", "gradients", "median_s over the median of gradient_s"),
    ("tensor_peak_outputs", "outputs", "tensor_peak_bytes over output_bytes"),
    ("process_peak_outputs", "outputs", "process_peak_bytes over output_bytes"),
    (
        "problem_name",
        "",
        "the problem, a custom one by its function's name, with what tells others of that name apart",
    ),
    ("label", "", "the method, and what of its function and options differs among rows of that method"),
    ("path", "", "the file the record came from"),
)
