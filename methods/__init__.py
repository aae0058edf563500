"""Methods that compute a Hessian, its diagonal or its products with vectors: one algorithm a module, torch only.

Every module works without the harness: `from methods.vmap_hvp import hessian`. A function in it is a quantity:

- `hessian(loss, theta, **options) -> (P, P)`
- `diagonal(loss, theta, **options) -> (P,)`
- `block_diagonal(loss, theta, sizes, **options) -> tuple of (p, p)`, a block for each part of theta of `sizes`
- `hvp(loss, theta, vectors, **options) -> (P, k)`, with `vectors` of shape (P, k)
- `ggn(model, criterion, inputs, targets, **options) -> (P, P)`, the generalised Gauss-Newton matrix

`loss` maps a flat tensor (P,) to a scalar (). `theta` (P,) is the point at which the derivatives are taken.

Modules that are not methods:

- `batches` adds up the results of a method over a data set in batches; `batching` holds its parts.
- `ravel` flattens a module's parameters, or tensors in tuples, lists and dicts, to such a `theta`.
- `calls` calls a network with given parameters, and makes its loss; `samples` takes samples of a batch.
- `chunks` has one-hot rows and chunk sizes; `blocks` restricts a loss to a block of its parameters.
- `storage` writes a matrix larger than memory to a file, and computes with it there (with NumPy).
- `factoring` holds the parts of `factored`, and `peers` the methods of other libraries.
"""
