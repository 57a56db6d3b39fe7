from abatis.testing import PluginContract


class TestInputGradient(PluginContract):
    plugin = "input-gradient"


class TestInputGradientOfCleanImages(PluginContract):
    plugin = "input-gradient"
    options = {"weight": 1, "at": "clean", "reduction": "mean"}
