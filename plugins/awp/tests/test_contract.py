from abatis.testing import PluginContract


class TestAwp(PluginContract):
    plugin = "awp"
