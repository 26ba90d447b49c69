"""How a corpus is made: cut into units of work, each done once by some process, and put together in their order."""
