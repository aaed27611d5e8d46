"""Tables as Markdown, CSV, LaTeX and in a terminal."""

import io
import math
import re

import pandas as pd
from figure_tables import study
from rich.console import Console
from score_tables import run, table
from study_tables import FOUR
from sweep_tables import BETA, FIRST, LAST, oracle, swept
from sweep_tables import drop as drop_of

from lightning_unlearn.analysis.reading import Condition
from lightning_unlearn.analysis.scores import scores
from lightning_unlearn.report.sections.scores import scores_table
from lightning_unlearn.report.summary import summarize
from lightning_unlearn.report.tables import Column, Row, csv, escape_latex, table_of_runs

NOTE = (
    "Forget score: drop of the mean log-likelihood of the paper's unlearn label and its 19 "
    "paraphrases, end of turn not counted."
)


def test_markdown_golden(example):
    assert scores_table(scores(example)).markdown().splitlines() == [
        "| method | p | path | forget score | tofu utility | math utility | math accuracy change |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
        "| NPO | 1 | **safety**-tofu-math | 7.750 | 0.750 | 0.500 | -0.250 |",
        "|  | 3 | tofu-math-**safety** | **0.250** | -1.500 | n/a | +0.125 |",
        r"| GA\|x | 3 | tofu-math-**safety** | 0.000 | n/a | n/a | n/a |",
        "",
        f"{NOTE} Bold: the lowest forget score of a method, where forgetting was slowest.",
    ]


def test_markdown_of_several_seeds_and_escaped_names():
    rows = []
    for seed, drop in enumerate((1.0, 2.0, math.nan)):
        rows += run("<b>*x*", "a_b-f", 2, {"forget/mean": (0, 0, -drop)}, seed)
    assert scores_table(scores(table(rows))).markdown().splitlines()[2:] == [
        r"| &lt;b&gt;\*x\* | 2 | a\_b-**f** | 3 | 1.500 (1.000 to 2.000, 2 of 3 seeds) |",
        "",
        f"{NOTE} Several seeds: mean (lowest to highest).",
    ]


def test_csv_returns_what_went_in(example):
    found = scores(example)
    text = csv(found)
    assert text.splitlines()[0] == ",".join(found.columns)
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(text)), found)


def test_render_prints_names_as_they_are(example):
    found = scores(example.assign(method=example["method"].replace("GA|x", "[red]GA")))
    out = io.StringIO()
    Console(file=out, width=140).print(scores_table(found).rich())
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert ["NPO", "1", "safety-tofu-math", "7.750", "0.750", "0.500", "-0.250"] in lines
    assert ["[red]GA", "3", "tofu-math-safety", "0.000", "n/a", "n/a", "n/a"] in lines


def test_the_table_of_a_sweep():
    assert scores_table(scores(swept())).markdown().splitlines() == [
        "| method | setting | p | path | forget score |",
        "| --- | --- | ---: | --- | ---: |",
        "| GA | lr = 0.0001 | 1 | **f**-a-b | 2.000 |",
        "|  |  | 3 | a-b-**f** | **0.500** |",
        "|  | lr = 3e-5 | 1 | **f**-a-b | **2.000** |",
        "|  |  | 3 | a-b-**f** | 3.000 |",
        "| NPO | lr = 0.0001, beta = 0.5 | 1 | **f**-a-b | 1.000 |",
        "|  |  | 3 | a-b-**f** | **0.250** |",
        "|  | lr = 0.0001, beta = 1 | 1 | **f**-a-b | 1.000 |",
        "|  |  | 3 | a-b-**f** | **0.250** |",
        "",
        f"{NOTE} Bold: the lowest forget score of a method and setting, where forgetting was "
        "slowest.",
    ]
    out = io.StringIO()
    Console(file=out, width=140).print(scores_table(scores(swept())).rich())
    assert "lr = 0.0001, beta = 1" in out.getvalue()


def test_a_setting_without_any_value_is_said_to_have_none():
    rows = drop_of("GA", FIRST, 1.0, {BETA: None}) + drop_of("NPO", FIRST, 1.0, {BETA: 0.5})
    lines = scores_table(scores(pd.DataFrame(rows))).markdown().splitlines()
    assert lines[2].startswith("| GA | n/a | 1 |")
    assert lines[3].startswith("| NPO | beta = 0.5 | 1 |")


def test_the_table_shows_gaps_where_there_are_oracles():
    rows = (
        drop_of("GA", FIRST, 2.0) + drop_of("GA", LAST, 1.0) + oracle(FIRST, {"forget/mean": -4.0})
    )
    found = scores(pd.DataFrame(rows))
    assert scores_table(found).markdown().splitlines()[:4] == [
        "| method | p | path | forget score | oracle gap |",
        "| --- | ---: | --- | ---: | ---: |",
        "| GA | 1 | **f**-a-b | 2.000 | +1.000 |",
        "|  | 3 | a-b-**f** | **1.000** | n/a |",
    ]
    assert "less that under the model retrained" in scores_table(found).markdown()
    other = drop_of("GA", FIRST, 2.0) + oracle(FIRST, {"answers/a": -4.0})
    assert "oracle_gap" not in scores(pd.DataFrame(other))


def test_sections_fit_a_terminal(study):
    out = io.StringIO()
    console = Console(file=out, width=120)
    for section in study.summary.sections:
        if section.renderable is not None:
            console.print(section.renderable)
    text = out.getvalue()
    assert "…" not in text and max(map(len, text.splitlines())) <= 120
    for path, _ in FOUR:
        assert text.count(path) == 2 * 2


def test_tables_as_latex():
    one, other = Condition("GA_x", (), ()), Condition("[N]", (), ())
    rows = [
        Row(one, ["1.000", "-0.5\u00b10.1"], ("f%-a", 1), 2, ["forget score"]),
        Row(one, ["n/a", "--"], ("a-f%", 2), 2),
        Row(other, ["2.000", "x"], ("f%-a", 1)),
    ]
    columns = [
        Column("forget score", lambda row: row.data[0]),
        Column("R&D", lambda row: row.data[1]),
    ]
    table = table_of_runs(columns, rows, ["Note of 95 %."], swept=False)
    assert table.latex("A caption: 50 %").splitlines() == [
        r"\begin{table}[tbp]",
        r"\centering",
        r"\small",
        r"\caption{A caption: 50 \%}",
        r"\begin{tabular}{lrlrrr}",
        r"\toprule",
        r"method & p & path & seeds & forget score & R\&D \\",
        r"\midrule",
        r"GA\_x & 1 & \textbf{f\%}-a & 2 & \textbf{1.000} & $-$0.5$\pm$0.1 \\",
        r" & 2 & a-\textbf{f\%} & 2 & n/a & -{}- \\",
        r"\midrule",
        r"{[}N{]} & 1 & \textbf{f\%}-a & 1 & 2.000 & x \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip",
        r"\parbox{\linewidth}{\footnotesize Note of 95 \%. "
        "Several seeds: mean (lowest to highest).}",
        r"\end{table}",
    ]


def test_latex_escapes_every_sign():
    raw = "\\ {a} $ & # % _ ~ ^ < > | `b` 3-4 -5 a--b\nc"
    found = escape_latex(raw)
    assert found == (
        r"\textbackslash{} \{a\} \$ \& \# \% \_ \textasciitilde{} \textasciicircum{} \textless{} "
        r"\textgreater{} \textbar{} \textasciigrave{}b\textasciigrave{} 3-4 $-$5 a-{}-b c"
    )


def test_sections_have_latex():
    records, examples = study()
    summary = summarize(records, examples)
    for section in summary.sections:
        text = section.latex
        assert bool(text) == (section.table is not None)
        if text:
            assert rf"\caption{{{section.title}}}" in text
            rows = [line for line in text.splitlines() if line.endswith(r"\\")]
            columns = len(re.search(r"tabular}{(\w+)}", text)[1])
            assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {columns - 1}
