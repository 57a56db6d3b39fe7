from abatis.testing import PluginContract


class TestAverageMargin(PluginContract):
    plugin = "average-margin"


class TestRampAlone(PluginContract):
    plugin = "average-margin"
    options = {"weight": 1, "orthogonality": 0}


class TestOrthogonalityAlone(PluginContract):
    plugin = "average-margin"
    options = {"weight": 0, "orthogonality": 0.01}
