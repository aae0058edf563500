"""The figures, drawn by matplotlib."""
