"""A benchmark of the ways to compute a Hessian in PyTorch: time, memory and numerical agreement."""
