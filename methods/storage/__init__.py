"""A symmetric matrix (P, P) larger than memory, in a file: written by rows, resumed after a kill, read by blocks.

- `writing` writes it, from any Hessian-vector product or as the `out` of a method.
- `reading` computes with it: products, trace, norm, diagonal, symmetry. SciPy's `eigsh` takes it as it is.
- `files` has the two files: rows in NumPy's format, and a JSON file that describes them.
"""
