"""What is seen of a method: times, memory, counters, the rates of the machine, its warnings and the environment."""
