"""A benchmark cell in processes of its own: who starts them, what they do, how far a sweep is."""
