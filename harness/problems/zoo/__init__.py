"""The zoo: a small test network or function for every layer, loss and function that people differentiate twice.

Each is a file in `conf/problem/zoo/`. Most files name a layer, a loss or a function of torch by its path, with
arguments. Builders return `(model, criterion, inputs, targets)` or `(objective, parameters)` and need torch alone, so
that `harness.reproduce` can copy them into a script.
"""
