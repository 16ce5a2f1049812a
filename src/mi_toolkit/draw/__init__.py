"""Pictures of results, for notebooks, files and papers: `view` for all of them."""
