"""Our PGD and DeepFool make the images that other libraries make, where these are installed."""

from __future__ import annotations

from functools import cache

import pytest
from benchmarks import agreement

from tests.reference import reference_dir


@cache
def digits():
    return agreement.digits_case()


@cache
def linear():
    return agreement.linear_case()


def need(library):
    import abatis.system.timm_import  # noqa: F401  # they import it

    pytest.importorskip(library)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("library", ["foolbox", "torchattacks"])
def test_pgd_walks_the_same_path(library, norm):
    need(library)
    row = agreement.pgd_row(library, digits(), norm)
    assert 10 < row["broken"] < 90
    assert row["other verdicts"] == 0
    assert row["difference"] <= row["tolerance"] == 1e-12


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("library", ["foolbox", "torchattacks"])
def test_pgd_walks_the_same_path_on_a_robust_network(library, norm):
    need(library)
    if reference_dir() is None:
        pytest.skip("the network is not here; set ABATIS_REFERENCE")
    row = agreement.pgd_row(library, agreement.resnet2b_case(), norm)
    assert 17 < row["broken"] < 64  # 17 are wrong as they are
    assert row["other verdicts"] == 0
    assert row["difference"] <= row["tolerance"] == 1e-12


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("overshoot", [0.02, 1e-5])
@pytest.mark.parametrize("case", [linear, digits], ids=["linear", "trained"])
def test_deepfool_is_foolbox_s(case, overshoot, norm):
    need("foolbox")
    row = agreement.deepfool_row("foolbox", case(), norm, overshoot)
    assert row["broken"] == 100
    assert row["mean length"] > 0.03
    assert row["difference"] <= row["tolerance"] < 0.35 * row["mean length"]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("case", [linear, digits], ids=["linear", "trained"])
def test_deepfool_is_adv_lib_s(case, norm):
    need("adv_lib.attacks")
    row = agreement.deepfool_row("adv-lib", case(), norm, 1e-5)
    assert row["difference"] <= row["tolerance"] < 0.05 * row["mean length"]


def test_a_wrong_step_size_would_be_seen(monkeypatch):
    need("foolbox")
    monkeypatch.setattr("abatis.evaluate.pgd.STEP_SHARE", 0.26)
    assert agreement.pgd_row("foolbox", digits(), "Linf")["difference"] > 1e-3
