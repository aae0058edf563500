"""A benchmark of the methods that compute a Hessian in PyTorch: time, memory and correctness."""

from harness import program

if program.is_ours():
    program.prepare()
