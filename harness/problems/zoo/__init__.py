"""The zoo: one small problem for every layer, loss and function that people differentiate twice.

A case is a file in `conf/problem/zoo/`; most name a layer, a loss or a function of torch by its path, with arguments.
Builders return `(model, criterion, inputs, targets)` or `(objective, parameters)` and need torch alone, so that
`harness.reproduce` can copy them into a script.
"""
