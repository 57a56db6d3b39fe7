from abatis.testing import PluginContract


class TestMultiNorm(PluginContract):
    """In Linf and L1."""

    plugin = "multi-norm"


class TestMultiNormMax(PluginContract):
    plugin = "multi-norm"
    options = {"choice": "max"}
