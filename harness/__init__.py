"""A benchmark of the methods that compute a Hessian in PyTorch: time, memory and correctness."""

import sys

from harness import program

if sys.argv[:1] == ["-m"]:  # Python still looks for the program: `python -m harness`, or a module of it
    program.prepare()
