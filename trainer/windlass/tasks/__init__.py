"""What is learned: each task is a loss and its metrics."""
