"""The contract every plugin keeps, as a class of tests to inherit:

    from abatis.testing import PluginContract

    class TestMine(PluginContract):
        plugin = "mine"

Everything runs on the CPU on tiny networks, in seconds.
"""
