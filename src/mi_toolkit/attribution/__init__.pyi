from .attribution import Attribution as Attribution
