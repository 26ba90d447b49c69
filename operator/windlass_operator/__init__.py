"""The operator: it watches LLMTrainingJob resources and keeps the pods that they need."""
