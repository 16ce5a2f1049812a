"""The table of scorers: one signature, one file per group."""
