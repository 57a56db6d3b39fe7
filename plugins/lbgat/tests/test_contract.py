from abatis.testing import PluginContract


class TestLbgat(PluginContract):
    plugin = "lbgat"


class TestLbgatWithoutKL(PluginContract):
    plugin = "lbgat"
    options = {"beta": 0.0}
