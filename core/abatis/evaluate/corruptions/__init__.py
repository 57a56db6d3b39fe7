"""Common corruptions (Hendrycks and Dietterich, ICLR 2019): accuracy on images that nobody attacks.

The published files (CIFAR-10-C, CIFAR-100-C, ImageNet-C) are the reference. Without them the
fifteen corruptions are computed here from the published formulas and parameters, with other random
draws than those of the files.
"""
