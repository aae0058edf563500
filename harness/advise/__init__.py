"""Advice: which method computes a quantity of a problem fastest, within the memory, and right.

A method of `loss` and `theta` is first checked in few of the problem's parameters (`subset`): each column of that small
Hessian costs what one of the whole costs. Its time and memory are then measured in more parameters, in all where that
is cheap, and otherwise extrapolated along a line; the output itself grows with its square. A method that asks for the
network is run whole: what it does depends on the layers, which a subset hides. The best of all are then checked whole,
where their expected time and memory allow it: a method that fails there is not recommended.
"""
