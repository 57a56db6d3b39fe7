from abatis.testing import PluginContract


class TestIkl(PluginContract):
    plugin = "ikl"


class TestGkl(PluginContract):
    plugin = "ikl"
    options = {"gamma": 0.2, "attack_beta": 1.0}
