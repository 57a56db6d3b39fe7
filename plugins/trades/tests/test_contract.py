from abatis.testing import PluginContract


class TestTrades(PluginContract):
    plugin = "trades"
