"""The parts of `methods.batches`.

- `divisors`: what the mean of a criterion divides by.
- `passes`: batches that are gone through several times, each with its weight.
- `gradients`: the gradient of the loss of some samples, in float64 where the network can be computed in it.
- `additivity`: whether the loss is the weighted sum of those of its batches.
"""
