from abatis.testing import PluginContract


class TestHe(PluginContract):
    plugin = "he"


class TestHeWithTrades(PluginContract):
    plugin = "he"
    options = {"form": "trades", "s": 15.0}


class TestHeWithAlp(PluginContract):
    plugin = "he"
    options = {"form": "alp", "s": 20.0, "m": 0.3, "beta": 0.5}
