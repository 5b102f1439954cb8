"""StyleSwin: Transformer-based GAN for High-resolution Image Generation (Zhang et al., CVPR 2022, arXiv 2112.10762)."""
