"""The contract every plugin keeps, as a class of tests to inherit:

    from abatis.testing import PluginContract

    class TestMine(PluginContract):
        plugin = "mine"

Everything runs on the CPU on tiny networks, in seconds.
"""

from abatis.contract.bench import THREAT, Bench, digits_batch, smooth_network, tiny_batch, tiny_network, tiny_vit
from abatis.contract.standard import STANDARD, PluginContract

__all__ = [
    "STANDARD",
    "THREAT",
    "Bench",
    "PluginContract",
    "digits_batch",
    "smooth_network",
    "tiny_batch",
    "tiny_network",
    "tiny_vit",
]
