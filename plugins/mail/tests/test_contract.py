from abatis.testing import PluginContract


class TestMail(PluginContract):
    plugin = "mail"
    options = {"burn_in": 0, "slope": 2, "bias": 0}


class TestMailAsInThePaper(PluginContract):
    plugin = "mail"
    options = {"burn_in": 0, "normalization": "mean", "margin": "dif", "slope": 2, "bias": 0}
