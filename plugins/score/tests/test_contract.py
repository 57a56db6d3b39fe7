from abatis.testing import PluginContract


class TestScore(PluginContract):
    plugin = "score"


class TestScoreOfAnotherDistance(PluginContract):
    plugin = "score"
    options = {"distance": "js", "clip": 0.01, "smoothing": 0.1}
