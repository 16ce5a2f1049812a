"""The same heads on other texts and lengths, and other models on the same text."""
