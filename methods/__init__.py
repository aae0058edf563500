"""Ways to compute a Hessian, its diagonal and its products with vectors; one algorithm a module, torch only.

Every module stands on its own: `from methods.vmap_hvp import hessian` or a copy of the file. The functions are

- `hessian(loss, theta, **options) -> (P, P)`
- `diagonal(loss, theta, **options) -> (P,)`
- `hvp(loss, theta, vectors, **options) -> (P, k)`, with `vectors` of shape (P, k)

where `loss` maps a flat (P,) tensor to a scalar. `methods.ravel.ravel` flattens a module's parameters, or a tuple
or dict of tensors, to such a `theta`.
"""
