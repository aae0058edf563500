"""Whether a result is right: what the loss says itself, the true values, and what a result must be."""
