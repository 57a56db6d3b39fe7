"""Networks: backbones, the network as plugins see it, and weights on disk."""
