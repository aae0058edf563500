"""Each sample's own derivatives, which are not added up: in the parameters, or in the sample's input.

`sample_loss(point, sample)` maps a point (D,) and a sample to a scalar: the loss of a batch with this sample alone.
`points` (N, D) holds the flattened inputs, or the parameters N times. `samples` holds tensors (N, ...), in tuples,
lists and dicts; of a sample it has the same structure. The results are

- `hessian`: (N, D, D),
- `diagonal`: (N, D), and `trace`: its sums (N,), the Laplacian of each sample,
- `hvp`: (N, D, m), for vectors (N, D, m).
"""
