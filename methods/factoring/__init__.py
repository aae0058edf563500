"""The parts of `methods.factored`; its docstring defines the symbols that they share.

A result passes through them in this order:

- `network`: the loss as a function of shifts; `modes` find the calls of affine maps (`affine`) while the network runs.
  `maps` and `convolutions` are those of torch. `written`, `normalisations` and `attention` write other functions out by
  them, and `views` follows views of parameters.
- `plan`: decides which parameters are computed by matrix products, and which take rows.
- `uses`: the calls of affine maps that the matrix products are about.
- `hessian`: writes the Hessian. `tape` records the functions that the network calls, `cuts` chooses where to cut them,
  and `segmented` makes `segments`, which give their own derivatives along unit shifts. `stages` and `chain` multiply
  these from the last segment to the first, by `jacobian`; `pairs` are the derivatives between two calls.
- `products` writes the sums over the samples that `contractions` computes, by `scatter` where a C compiler is at hand
  (`native`).
- `shifts`: derivatives along unit shifts through the whole network, for the diagonal.
- `sequential`: writes the diagonal of a chain of affine maps and elementwise functions.
- `diagonal`: writes the diagonal of other networks, which `propagation` propagates back from the outputs, or else
  `shifts` gives.
- `rows`: rows by backward passes, for the other parameters; for all of a network where `costs` says that rows cost
  less than products.
- `sums`: adds up the Hessians of several batches.
- `certificate`: computes products by double backward through the plain loss, and `comparison` compares them with the
  result; `fallback` says what happens where they differ.

`refusals`, `numerics`, `scratch` and `precision` serve several of them.
"""
