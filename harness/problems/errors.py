"""What is raised where there is no problem."""


class ProblemError(ValueError):
    """A problem cannot be built from its options, or is none whose Hessian can be asked for."""
