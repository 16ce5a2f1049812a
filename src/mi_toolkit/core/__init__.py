"""What all parts stand on: hooked models, tokens, results, statistics."""
