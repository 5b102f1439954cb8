"""HiT: Improved Transformer for High-Resolution GANs (Zhao et al., NeurIPS 2021, arXiv 2106.07631)."""
