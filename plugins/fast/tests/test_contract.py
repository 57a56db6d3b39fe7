from abatis.testing import PluginContract


class TestFgsmRs(PluginContract):
    plugin = "fast"


class TestNFgsm(PluginContract):
    plugin = "fast"
    options = {"variant": "n-fgsm", "alpha": 1.0}
