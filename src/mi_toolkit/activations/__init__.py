"""Activations of a model on texts: in memory, on disk, or as statistics alone."""
