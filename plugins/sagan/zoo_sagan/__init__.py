"""SAGAN: Self-Attention Generative Adversarial Networks (Zhang et al., ICML 2019, arXiv 1805.08318)."""
