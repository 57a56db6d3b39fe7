from abatis.testing import PluginContract


class TestConvstem(PluginContract):
    """The contract's transformer gets the stem; its other networks have none, and are kept."""

    plugin = "convstem"
    options = {"other": "keep"}
