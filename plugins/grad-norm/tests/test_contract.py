from abatis.testing import PluginContract


class TestGradNorm(PluginContract):
    plugin = "grad-norm"
    options = {"ramp_start": 1.0, "grad_weight": 0.1}
