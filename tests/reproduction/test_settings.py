import dataclasses

import pytest
import torch

import aalp_lib as aalp
from aalp_lib.reproduction import paper
from aalp_lib.reproduction.settings import SETTINGS, new_model, setting_for


def test_our_paper_recipe_is_section_4_1s():
    for name, said in paper.SETTINGS.items():
        ours = SETTINGS[name]["paper"]
        assert ours.model["name"] == said.model
        assert (ours.recipe.lr, ours.recipe.schedule, ours.recipe.weight_decay) == (said.lr, "constant", 0)
        assert ours.attack == aalp.PGD(said.eps, said.step, said.steps)
        assert SETTINGS[name]["fast"].attack.eps == said.eps


def test_setting_for_a_folder_fits_the_network_to_its_images(sample):
    grey = dataclasses.replace(sample, name="mine", classes=tuple("abcdefghijk"))
    setting = setting_for(grey)
    assert setting.model["name"] == "lenet"
    assert aalp.models.build(setting.model)(torch.rand(2, 1, 28, 28)).shape == (2, 11)
    assert abs(setting.model["mean"][0] - sample.train.images.float().mean() / 255) < 0.01
    other = setting_for(sample, model="resnet9")
    assert aalp.models.build(other.model)(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    with pytest.raises(aalp.InputError, match="known are paper, fast"):
        setting_for(sample, recipe="quick")


def test_a_folders_classes_all_count_in_its_normalisation(sample):
    """A folder's images stand class by class, the first one dark here."""
    images = torch.zeros(3000, 1, 28, 28, dtype=torch.uint8)
    images[1000:] = 200
    split = aalp.Split(images, torch.arange(3).repeat_interleave(1000))
    model = setting_for(aalp.Dataset("digits", ("a", "b", "c"), split, split, split)).model
    assert model["mean"][0] == pytest.approx(2 / 3 * 200 / 255, abs=1e-3)


def test_a_new_network_depends_on_its_seed_alone():
    setting, state = SETTINGS["mnist"]["fast"], torch.get_rng_state()
    one, same, other = (new_model(setting, seed).head.weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)
