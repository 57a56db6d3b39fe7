from abatis.testing import PluginContract


class TestIkl(PluginContract):
    plugin = "ikl"


class TestGkl(PluginContract):
    plugin = "ikl"
    options = {"gamma": 0.2, "attack_beta": 1.0}


class TestIklWithWeightsOfSamples(PluginContract):
    plugin = "ikl"
    options = {"weights": "samples", "temperature": 2.0, "gamma": 0.5, "ce_temperature": 4.0}
