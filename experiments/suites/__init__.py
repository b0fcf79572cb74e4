"""What `experiments.benchmark` times: a module for each suite."""
