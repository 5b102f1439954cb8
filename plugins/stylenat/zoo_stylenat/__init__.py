"""StyleNAT: Giving Each Head a New Perspective (Walton et al., arXiv 2211.05770)."""
