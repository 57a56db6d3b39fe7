from abatis.testing import PluginContract


class TestAmm(PluginContract):
    plugin = "amm"


class TestAmmOfEverySample(PluginContract):
    plugin = "amm"
    options = {
        "weight": 1,
        "aggregation": "avg",
        "shrinkage": "invprop",
        "norm": "Linf",
        "relative": True,
        "use_failed": True,
    }
