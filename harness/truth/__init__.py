"""Whether a result is right, judged by the loss itself, and whether the call had side effects."""
