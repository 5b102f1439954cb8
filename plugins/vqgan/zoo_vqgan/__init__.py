"""VQGAN: Taming Transformers for High-Resolution Image Synthesis (Esser et al., arXiv 2012.09841)."""
