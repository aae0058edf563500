"""A benchmark of the methods that compute a Hessian in PyTorch: time, memory and correctness."""
