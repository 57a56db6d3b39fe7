from abatis.testing import PluginContract


class TestGairat(PluginContract):
    plugin = "gairat"
    options = {"burn_in": 0}


class TestGairatDiscrete(PluginContract):
    plugin = "gairat"
    options = {"burn_in": 0, "omega": "discrete"}
