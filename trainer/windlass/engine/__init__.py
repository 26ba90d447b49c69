"""Runs jobs: the driver, the train function, local runs and their folders."""
