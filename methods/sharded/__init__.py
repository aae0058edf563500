"""Hessians over several processes: each computes its rows, or has its samples.

    torchrun --nproc-per-node=2 script.py

- `vmap_hvp`, `factored`: a Hessian whose rows are sharded, as a DTensor; no process computes the whole matrix.
- `data_parallel`: products with vectors, where each process has some of the samples.
- `layout`: the rows of each process.

A function takes `mesh`, a one-dimensional `torch.distributed.device_mesh.DeviceMesh`. All its processes call it with
the same parameters, which is checked, and the same samples.
"""
