"""The commands for jobs on a Kubernetes cluster. What they know of a job is what the API server says of it."""
