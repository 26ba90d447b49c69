"""A job's pods on a cluster: what runs in the head and in the workers. No calls to Kubernetes' API."""
