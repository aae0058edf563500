"""Methods of other libraries for the same quantities, each used as its own documentation recommends.

Each module imports one library. `pip install '.[peers]'` installs them, `pip install '.[jax]'` installs JAX.
"""
