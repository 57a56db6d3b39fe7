"""The tests that every plugin passes, as a class to inherit:

    from abatis.testing import PluginContract

    class TestMine(PluginContract):
        plugin = "mine"

They run on the CPU on tiny networks, in seconds.
"""
