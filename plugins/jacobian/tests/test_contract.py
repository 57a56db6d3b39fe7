"""The contract, for the exact penalty and for random projections."""

from __future__ import annotations

from abatis.testing import PluginContract


class TestJacobian(PluginContract):
    plugin = "jacobian"
    options = {"projections": 0, "weight": 0.1}


class TestJacobianByProjections(PluginContract):
    plugin = "jacobian"
    options = {"projections": 2, "weight": 0.1, "at": "clean"}
