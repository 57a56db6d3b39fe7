"""Is the robustness real? Twenty-four tests for signs of masked gradients.

After Athalye et al. (ICML 2018), Carlini et al. (arXiv 1902.06705) and the indicators of attack
failure of Pintor et al. (NeurIPS 2022). A network that passes is not proved robust: these tests
found no sign of masking, and that is all.
"""
