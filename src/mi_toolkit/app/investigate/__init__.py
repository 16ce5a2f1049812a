"""The fourth section: ablate heads, attribute a prediction, compare a second model."""
