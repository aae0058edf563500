"""Other libraries' ways to the same quantities, each used as its own documentation recommends.

A module here imports its library: `pip install '.[peers]'`, for JAX `pip install '.[jax]'`.
"""
