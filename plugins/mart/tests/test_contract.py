from abatis.testing import PluginContract


class TestMart(PluginContract):
    plugin = "mart"
