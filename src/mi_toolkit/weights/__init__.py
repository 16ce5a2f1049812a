"""Critical weights: score every weight, rank them exactly, prove it by perturbation.

`coordinates` says where a weight is, in the model that runs and in the Hugging Face checkpoint.
"""
