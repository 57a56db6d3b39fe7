from abatis.testing import PluginContract


class TestEmr(PluginContract):
    plugin = "emr"
