"""Token batches to test behaviours on: a user's own prompts and the standard stimuli."""
