"""What a job is: models, defaults, presets, validation, the CRD. No torch, no ray, no I/O beyond reading a job file."""
