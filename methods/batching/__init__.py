"""The parts of `methods.batches`.

- `divisors`: what the mean of a criterion divides by.
- `passes`: batches that are gone through several times, each with its weight.
- `additivity`: whether the loss is the weighted sum of those of its batches.
"""
