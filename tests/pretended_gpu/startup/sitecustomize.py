"""Python imports this file at its start where this folder is on PYTHONPATH (`library.environment`)."""

import os

if os.environ.get("PRETENDED_GPU"):
    from tests.pretended_gpu import gpu

    gpu.begin()

    from harness.measure import rates

    rates.GEMM_SIZE["cuda"], rates.WRITTEN_BYTES["cuda"] = 256, 1 << 20  # those of a GPU would take a CPU a minute
