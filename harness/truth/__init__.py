"""Whether a result is right, by what the loss says itself, and whether the call left everything as it found it."""
