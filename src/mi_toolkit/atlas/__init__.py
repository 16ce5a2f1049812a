"""The standard protocol for a list of models, in one folder that is opened with a browser."""
