"""A pure state machine: a job and what is observed of it, now -> actions, status and events. No I/O, no clock."""
