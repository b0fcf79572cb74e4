"""Other projects' programs, made to run beside ours in one process."""
