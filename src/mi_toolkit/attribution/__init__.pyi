from .attribute import Attribution as Attribution
