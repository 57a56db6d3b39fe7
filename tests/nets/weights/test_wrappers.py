"""Files that trainers with wrappers and averages write."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from abatis.errors import UsageError
from abatis.nets.weights import load_into, read_contents
from tests.nets.weights.common import Tiny, load_tiny, logits_of, make_state, put, run

GOOD, RAW = make_state(0), make_state(1)


def inside(word):
    """The names that a wrapped convolution and norm give."""
    return {
        name.replace("conv.", f"conv.{word}.").replace("norm.", f"norm.{word}."): value
        for name, value in GOOD.items()
    }


FORMS = {
    "fsdp": put("_fsdp_wrapped_module.", inside("_fsdp_wrapped_module")),
    "recomputed": inside("_checkpoint_wrapped_module"),
    "compiled parts": put("model.", inside("_orig_mod")),
    "fabric": {"model": put("_forward_module.", GOOD), "iter": 3},
    "lightning": {"state_dict": {**put("net.", GOOD), "val_acc.correct": torch.tensor(3.0)}},
    "model.module": {"state_dict": put("model.module.", GOOD)},
    "deepspeed": {"module": put("module.", GOOD), "global_steps": 3},
    "average in one table": {
        **put("ema_model.", GOOD),
        **put("online_model.", RAW),
        "initted": torch.tensor(True),
        "step": torch.tensor(4),
    },
    "average beside": {"model": put("module.", RAW), "model_ema": put("module.", GOOD)},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_right_weights_are_taken(tmp_path, form):
    torch.save(FORMS[form], tmp_path / "w.pt")
    loaded = load_tiny(tmp_path / "w.pt")
    torch.testing.assert_close(logits_of(loaded), run(GOOD), rtol=0, atol=0)


def test_names_of_wrapped_parts_in_safetensors(tmp_path):
    save_file(inside("_orig_mod"), tmp_path / "w.safetensors")
    loaded = load_tiny(tmp_path / "w.safetensors")
    torch.testing.assert_close(logits_of(loaded), run(GOOD), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        ({**GOOD, "scale": torch.tensor(2.0)}, "scale"),  # a number that may change the logits
        ({**GOOD, "other.weight": torch.ones(3)}, r"other\.weight"),
        ({"student": GOOD, "teacher": RAW}, "student, teacher"),
        ({"_flat_param": torch.zeros(50)}, "no tensor has a name of the network"),
        ([GOOD], "holds a list"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path, saved, words):
    torch.save(saved, tmp_path / "w.pt")
    with pytest.raises(UsageError, match=words) as caught:
        load_tiny(tmp_path / "w.pt")
    assert len(str(caught.value).splitlines()) <= 4


class Dead(Tiny):
    """Has layers that are never run, as released wide ResNets have."""

    def __init__(self, runs=False):
        super().__init__()
        self.sub_block1 = torch.nn.Linear(5, 5)
        self.runs = runs

    def forward(self, x):
        logits = super().forward(x)
        return self.sub_block1(logits) if self.runs else logits


def test_a_file_may_lack_layers_that_are_never_run(tmp_path):
    torch.save(GOOD, tmp_path / "w.pt")
    contents = read_contents(tmp_path / "w.pt", allow_pickle=True)
    loaded = load_into(Dead(), contents, "Dead")
    torch.testing.assert_close(logits_of(loaded), run(GOOD), rtol=0, atol=0)
    assert any("2 tensors of layers that are never run" in note for note in loaded.notes)
    # a network that runs them does not get a number that looks right
    assert logits_of(load_into(Dead(runs=True), contents, "Dead")).isnan().all()
