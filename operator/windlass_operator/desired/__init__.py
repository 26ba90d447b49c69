"""Pure functions: a job -> the objects that should exist for it. Deterministic; golden files in the tests."""
