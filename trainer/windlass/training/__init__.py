"""The loop, parallelism, optimizer, schedule, checkpoints. Knows no Kubernetes and no Ray."""
