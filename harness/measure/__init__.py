"""What is seen of the timed calls beside their times."""
