"""Whether a result is right, and whether the call left everything as it found it."""
