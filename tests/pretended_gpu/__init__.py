"""Two pretended GPUs, for tests of `device=cuda` on a machine without one.

Tensors on `cuda:0` and `cuda:1` lie in host memory. Torch dispatches them as CUDA tensors, and its CPU kernels compute.

- `gpu.cpp`: operators, memory, random numbers; built and loaded by `library`.
- `gpu`: the functions of torch.cuda that a build for the CPU lacks.
- `nvml`: the driver's management library, which reports clocks and throttling.
- `startup`: lets every Python process begin with the pretended GPUs (`library.environment`).
- `cells`: method rows on the CPU and on `cuda:0`, and how often the CPU waits; `table`: the table of all.
- `checks`: tests that need the pretended GPUs.

The pretended GPUs have no kernels of CUDA, cuDNN and cuBLAS, and no streams. No work runs while the CPU goes on. The
scratch memory within kernels is not counted.
"""
