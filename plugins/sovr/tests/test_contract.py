from abatis.testing import PluginContract


class TestSovr(PluginContract):
    plugin = "sovr"


class TestSovrWithKL(PluginContract):
    plugin = "sovr"
    options = {"beta": 6, "select_on": "nat", "fraction": 0.3}
