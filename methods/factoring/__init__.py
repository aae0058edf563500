"""The parts of `methods.factored`; its docstring defines the symbols that they share.

A result passes through them in this order:

- `network`: the loss as a function of shifts; `modes` find the calls of affine maps (`affine`) while the network runs.
  `maps` and `convolutions` are those of torch. `written`, `normalisations` and `attention` write other functions out by
  them, and `views` follows views of parameters.
- `plan`: decides which parameters are computed by matrix products, and which take rows.
- `uses`: the calls of affine maps that the matrix products are about.
- `hessian`: writes the Hessian; `shifts` gives the derivatives along shifts, `products` writes
  the sums over the samples that `contractions` computes.
- `sequential`: writes the diagonal of a chain of affine maps and elementwise functions.
- `diagonal`: writes the diagonal of other networks, which `propagation` propagates back from the outputs, or else
  `shifts` gives.
- `rows`: rows by backward passes, for the other parameters; for all of a network where `costs` says that rows cost
  less than products.
- `sums`: adds up the Hessians of several batches.
- `certificate`: computes products by double backward through the plain loss, and `comparison` compares them with the
  result; `fallback` says what happens where they differ.

`refusals`, `numerics` and `precision` serve several of them.
"""
