"""Matrices that approximate the Hessian or the generalised Gauss-Newton matrix (GGN) on purpose.

Each function returns a `methods.estimates.Approximation`, whose value is the whole matrix (P, P), so that it can be
compared with the true one. To solve a system with such a matrix, none of it need be written out.
"""
