from abatis.testing import PluginContract


class TestScore(PluginContract):
    plugin = "score"


class TestScoreOfAnotherDistance(PluginContract):
    plugin = "score"
    options = {"distance": "js-sqrt", "clip": 0.01, "smoothing": 0.1}
