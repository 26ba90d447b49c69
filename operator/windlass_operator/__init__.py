"""Operator for LLMTrainingJob resources; arrives with the next release."""
