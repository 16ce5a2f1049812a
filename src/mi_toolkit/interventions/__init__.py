"""Changing what a model computes, and putting it back."""
