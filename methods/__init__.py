"""Ways to compute a Hessian, its diagonal and its products with vectors; one algorithm a module, torch only.

Every module works without the harness: `from methods.vmap_hvp import hessian`. The functions are

- `hessian(loss, theta, **options) -> (P, P)`
- `diagonal(loss, theta, **options) -> (P,)`
- `block_diagonal(loss, theta, sizes, **options) -> tuple of (p, p)`, a block for each part of theta of `sizes`
- `hvp(loss, theta, vectors, **options) -> (P, k)`, with `vectors` of shape (P, k)
- `ggn(model, criterion, inputs, targets, **options) -> (P, P)`, the generalised Gauss-Newton matrix

where `loss` maps a flat (P,) tensor to a scalar. `methods.ravel.ravel` flattens a module's parameters, or tensors in
tuples, lists and dicts, to such a `theta`; `methods.calls.loss_of` makes a network's loss. What several
modules share is in `chunks` (one-hot rows, chunk sizes) and in `blocks`.
"""
