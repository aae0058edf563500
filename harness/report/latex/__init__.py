"""Tables for LaTeX papers."""
