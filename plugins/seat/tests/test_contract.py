from abatis.testing import PluginContract


class TestSeat(PluginContract):
    plugin = "seat"


class TestSwa(PluginContract):
    plugin = "seat"
    options = {"average": "swa", "start": 0}
