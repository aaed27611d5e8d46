"""Short names of settings."""

import itertools

import numpy as np
import pytest

from lightning_unlearn.settings.labels import short_names, short_value


def test_names_are_the_shortest_that_differ():
    keys = ["data.unlearn.lr", "data.recipe.lr", "model.lora.r", "lr", "data.unlearn.schedule"]
    assert short_names(keys) == {
        "data.unlearn.lr": "unlearn.lr",
        "data.recipe.lr": "recipe.lr",
        "model.lora.r": "r",
        "lr": "lr",
        "data.unlearn.schedule": "schedule",
    }
    assert short_names(["data.unlearn.lr"] * 2) == {"data.unlearn.lr": "lr"}
    assert short_names([]) == {}


def test_no_two_short_names_are_alike():
    parts = ["a", "b", "lr"]
    every = [".".join(p) for n in (1, 2, 3) for p in itertools.product(parts, repeat=n)]
    draw = np.random.default_rng(0)
    for _ in range(200):
        keys = [str(key) for key in draw.choice(every, size=6, replace=False)]
        names = short_names(keys)
        assert len(set(names.values())) == len(keys)
        for key, name in names.items():
            assert key == name or key.endswith("." + name)
            shorter = name.partition(".")[2]
            if shorter:
                sharing = [k for k in keys if k == shorter or k.endswith("." + shorter)]
                assert len(sharing) > 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3e-4, "0.0003"),
        (3e-5, "3e-5"),
        (1.5e-10, "1.5e-10"),
        (1e16, "1e16"),
        (16.0, "16"),
        (-0.5, "-0.5"),
        (16, "16"),
        (True, "true"),
        ("cosine", "cosine"),
        (None, "null"),
    ],
)
def test_values_are_written_as_in_yaml(value, text):
    assert short_value(value) == text
