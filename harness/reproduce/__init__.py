"""`python -m harness.reproduce RECORD`: a script that shows what a record found, without the harness.

The script holds the source of the problem's builder and of the method, as far as they are used, and compares the
method's Hessian with central differences of the gradient. A record is data: none of its text becomes code.
"""
