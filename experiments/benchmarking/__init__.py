"""How `experiments.benchmark` measures and reports: peaks, work, memory, turns, tables, pictures, comparisons."""
