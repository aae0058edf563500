"""Python imports this file at its start where this folder is on PYTHONPATH (`library.environment`)."""

import os

if os.environ.get("PRETENDED_GPU"):
    from tests.pretended_gpu import gpu

    gpu.begin()
