"""Curves and tables for the terminal: readable in 80 columns, without color, in ASCII."""

import io
import itertools
from collections.abc import Mapping, Sequence

import pandas as pd
import pytest
from rich.console import Console, RenderableType
from tiny_stages import Tiny

from lightning_unlearn.cli.main import main
from lightning_unlearn.report import terminal

Run = tuple[str, str, int, int]


def table(curves: Mapping[Run, Mapping[str, Sequence[float]]], every: int = 5) -> pd.DataFrame:
    """Records of runs, by method, path, position and seed, measured every so many steps."""
    rows = [
        (path, position, method, seed, "unlearn", every * place, measure, value)
        for (method, path, position, seed), measures in curves.items()
        for measure, values in measures.items()
        for place, value in enumerate(values)
    ]
    names = ["path", "position", "method", "seed", "stage", "step", "metric", "value"]
    return pd.DataFrame(rows, columns=names)


def printed(renderable: RenderableType | None, width: int = 80, encoding: str = "utf-8") -> str:
    assert renderable is not None
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=stream, width=width, color_system=None).print(renderable)
    stream.seek(0)
    return stream.read()


FALLING = table(
    {
        ("NPO", "a-b", 2, 0): {"forget/label": [0.0, -3.5, -7.0], "distance/retain": [1.0] * 3},
        ("NPO", "b-a", 1, 0): {"forget/label": [-7.0, -7.0, -7.0], "distance/forget": [1, 10, 100]},
        ("GA", "a-b", 2, 0): {"forget/label": [-90.0, -95.0, -100.0], "other/thing": [1.0] * 3},
    }
)


def test_a_line_for_each_path_is_drawn_to_the_scale_of_its_method() -> None:
    lines = printed(terminal.curves(FALLING)).splitlines()
    assert lines[0] == "forget/label: log-likelihood of the paper's label, nats per token"
    assert [line.rstrip() for line in lines[1:7:3]] == ["NPO", "GA"] or lines[1].rstrip() == "NPO"
    level = "▁" * 36
    assert lines[2].rstrip() == f"  p = 1  b-a   -7 {level}   -7"
    drawn = lines[3].split()
    assert drawn[:5] == ["p", "=", "2", "a-b", "0"] and drawn[-1] == "-7"
    heights = [terminal.BLOCKS.index(character) for character in drawn[5]]
    assert heights == sorted(heights, reverse=True) and set(heights) == set(range(8))
    assert lines[4].rstrip() == "GA" and "█" in lines[5] and "▁" in lines[5]
    text = " ".join(" ".join(lines).split())
    assert "distance/forget: distance to the oracle, (nats per token)^2" in text
    assert "distance/retain" not in text and "other/thing" not in text
    assert "height: from the lowest to the highest value of a method. Steps 0 to 10." in text


def test_a_terminal_without_unicode_gets_digits() -> None:
    text = printed(terminal.curves(FALLING), encoding="ascii")
    assert "87" in text and "78" in text
    assert "0 is the lowest and 9 the highest value of a method" in " ".join(text.split())
    assert text.isascii()


def test_distances_are_drawn_by_their_order_of_magnitude() -> None:
    text = printed(terminal.curves(FALLING)).partition("distance/forget")[2]
    (line,) = [line for line in text.splitlines() if "p = 1" in line]
    heights = [terminal.BLOCKS.index(character) for character in line.split()[-2]]
    assert heights[len(heights) // 2] in (3, 4) and "Logarithmic." in text


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_lines_fit_and_long_paths_are_shortened(width: int) -> None:
    path = "-".join(["instructions", "biographies", "arithmetic", "refusals"])
    records = table({("NPO", path, 4, 0): {"forget/label": [-0.001234, -123456.0]}})
    lines = printed(terminal.curves(records), width).splitlines()
    assert max(map(len, lines)) <= width
    (line,) = [line for line in lines if "p = 4" in line]
    assert "-0.00123" in line and "-123456" in line
    assert ("..." in line) == (width < 100)


def test_seeds_are_averaged_and_what_is_missing_left_blank() -> None:
    runs = {
        ("NPO", "a-b", 2, seed): {"forget/label": values}
        for seed, values in enumerate([[0.0, -1.0, float("nan")], [0.0, -3.0, float("inf")]])
    }
    runs[("NPO", "b-a", 1, 0)] = {"forget/label": [0.0, 0.0, -4.0]}
    text = printed(terminal.curves(table(runs)))
    (line,) = [line for line in text.splitlines() if "p = 2" in line]
    assert line.split()[-1] == "-2" and line.split()[4] == "0"
    assert " " * 10 in line.rpartition("-2")[0] and "Means over 2 seeds." in text


def test_of_many_paths_the_extremes_are_drawn() -> None:
    paths = ["-".join(order) for order in itertools.permutations("abcdf")]
    runs = {
        ("NPO", path, path.index("f") // 2 + 1, 0): {"forget/label": [0.0, -float(place)]}
        for place, path in enumerate(paths)
    }
    text = printed(terminal.curves(table(runs)))
    assert text.count("p = ") == 2 and paths[0] in text and paths[-1] in text
    assert "those that end lowest and highest" in " ".join(text.split())
    sweep = {
        (f"M{number}", path, position, seed): values
        for number in range(30)
        for (_, path, position, seed), values in list(runs.items())[:2]
    }
    text = printed(terminal.curves(table(sweep)))
    assert text.count("p = ") == terminal.MOST_LINES
    assert "12 more methods or settings are in the figures." in " ".join(text.split())


def test_there_is_no_curve_of_one_step_or_of_nothing() -> None:
    assert terminal.curves(table({("NPO", "a-b", 2, 0): {"forget/label": [1.0]}})) is None
    assert terminal.curves(table({("NPO", "a-b", 2, 0): {"other/thing": [1.0, 2.0]}})) is None
    assert terminal.curves(table({})) is None


def test_answers_stand_in_for_the_label() -> None:
    runs = {("GA", "a-b", 2, 0): {"answers/a": [0.0, 1.0], "answers/b": [0.0, -1.0]}}
    text = printed(terminal.curves(table(runs)))
    assert text.startswith("answers/b: log-likelihood of the forget stage's answers")
    assert "answers/a" not in text


def test_a_short_table_is_whole_and_a_long_one_cut_to_what_matters() -> None:
    few = {"kl/x": (1.0, 2.0), "mine/x": (0.5, 0.25), "forget/mean": (-1.0, -2.0)}
    shown, left_out = terminal.ends_table(few)
    text = printed(shown)
    places = [text.index(name) for name in ("forget/mean", "mine/x", "kl/x")]
    assert places == sorted(places) and left_out == "" and "-0.2500" in text
    names = ["forget/label", "forget/mean", "answers/a", "accuracy/a", "distance/forget"]
    names += [f"kl/{place}" for place in range(9)] + [f"mine/{place}" for place in range(9)]
    shown, left_out = terminal.ends_table({name: (0.0, 1.0) for name in names})
    text = printed(shown)
    assert all(name in text for name in names[:5]) and text.count("mine/") == 9
    assert "kl/" not in text and left_out == "Not shown: kl (9)."
    assert shown.row_count <= terminal.MOST_ROWS


def test_fit_prints_its_curve_and_a_short_table(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import yaml

    monkeypatch.setenv("COLUMNS", "80")
    content = tiny.fit()
    content["trainer"]["callbacks"] = [
        {"class_path": "NPO"},
        *content["trainer"]["callbacks"],
        {"class_path": "AnswerStatistics"},
    ]
    (tiny.root / "fit.yaml").write_text(yaml.safe_dump(content))
    assert main(["fit", "--config", str(tiny.root / "fit.yaml")]) == 0
    text = capsys.readouterr().out
    table = text[: text.index("Written to")]
    assert max(map(len, table.splitlines())) <= 80
    assert "forget/label: log-likelihood" in table and "p = 3  inst-math-safety-tofu" in table
    assert "before unlearning" in table
    assert "They are in records.parquet." in " ".join(table.split())
    assert len(table.splitlines()) < 40
