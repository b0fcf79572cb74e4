"""How `experiments.sweep` searches: points, groups that share a program, blocks that fit in memory, what they found."""
