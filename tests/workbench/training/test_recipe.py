"""Recipes: the demo's own, and those that are refused."""

import pytest

from workbench.errors import WorkbenchError
from workbench.training.recipe import RECIPES, load_recipe

DEMO = (RECIPES / "demo.toml").read_text(encoding="utf-8")


def test_the_demos_recipe_has_the_published_shape():
    recipe = load_recipe(RECIPES / "demo.toml")
    assert (recipe.phases, recipe.optimizer_phases, recipe.unpublished_phases) == (
        27,
        (20, 25),
        (26,),
    )
    stages = [recipe.stage(phase) for phase in range(1, 28)]
    assert stages == ["warmup"] + ["stable"] * 24 + ["annealing"] * 2
    assert [recipe.rope_theta(p) for p in (25, 26)] == [10000.0, 490000.0]
    assert recipe.context_length(25) < recipe.context_length(26)
    rate = recipe.rate()
    assert rate(0) == 0
    assert rate(recipe.steps - 1) == recipe.schedule.final_factor
    assert rate.decay_start == 25 * recipe.steps_per_phase


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("phases = 27", "phases =", "not valid TOML"),
        ("phases = 27", "", "field phases: Field required"),
        ("phases = 27", "phases = 0", "field phases: .*greater than 0"),
        ("phases = 27", "phases = 2", "2 phases leave none before annealing"),
        ('shape = "1sqrt"', 'shape = "2sqrt"', "field schedule.shape: .*'1sqrt'"),
        ("lr = 0.006", "learning_rate = 0.006", "field optimizer.lr: Field required"),
        ("lr = 0.006", "lr = 0.006\nmomentum = 1", "field optimizer.momentum: Extra inputs"),
        ("constant_share = 0.0394", "constant_share = 1.0", "field schedule.constant_share"),
        ("tokens = 1024", "tokens = 1000", "field batch: .*1000 is no multiple of the length 128"),
        ("merge_every = 4", "merge_every = 20", "merged_checkpoints do not fit"),
    ],
)
def test_a_wrong_recipe_is_named_with_the_field(tmp_path, old, new, says):
    assert DEMO.count(old) >= 1
    path = tmp_path / "wrong.toml"
    path.write_text(DEMO.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(WorkbenchError, match=says) as wrong:
        load_recipe(path)
    assert str(path) in str(wrong.value)
