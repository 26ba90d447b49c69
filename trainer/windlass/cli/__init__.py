"""The command line. `main` says which commands there are; what they do is in modules that load when a command runs."""
