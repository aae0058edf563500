"""What is differentiated: a frozen problem, the ready-made ones, and the user's own."""

from harness.problems.problem import Problem, ProblemError, from_function, from_network

__all__ = ["Problem", "ProblemError", "from_function", "from_network"]
