"""Tables on disk: reading returns what was written, or refuses the file."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from study_folders import Synthetic, write_entry, write_frame
from study_plans import hand_plan

from lightning_unlearn.storage.records import (
    EXAMPLES,
    STEPS,
    DamagedTable,
    read_arrow,
    read_table,
    runs_of,
    write_table,
)
from lightning_unlearn.storage.seals import TABLE_KEY, Damage, check_table, read_values, seal_values
from lightning_unlearn.study.results import collect_records, finished, undamaged

COLUMNS = {"step": [0, 5, 5], "metric": ["a", "b", TABLE_KEY + "\x18\x40"], "value": [0.5, -1, 2]}


def test_a_table_reads_back_as_written(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_table(tmp_path / name, COLUMNS)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    table = read_table(tmp_path / "one", ["step", "value"])
    pd.testing.assert_frame_equal(table, pd.read_parquet(tmp_path / "one"))
    assert {name: table[name].tolist() for name in table} == COLUMNS
    assert read_arrow(tmp_path / "one", columns=["value"]).to_pydict() == {"value": [0.5, -1, 2]}
    # Other programs can check the pages of values.
    assert pq.read_table(tmp_path / "one", page_checksum_verification=True).num_rows == 3
    write_table(tmp_path / "none", {name: [] for name in COLUMNS})
    assert len(read_table(tmp_path / "none")) == 0


@pytest.mark.parametrize("kind", [STEPS, EXAMPLES, "run"])
def test_every_flipped_bit_is_detected(tmp_path: Path, kind: str) -> None:
    """The checksum covers every byte of header, pages, statistics, footer and itself."""
    file = tmp_path / kind
    if kind == "run":
        write_table(file, {"step": [*range(200)], "value": [0.1 * n for n in range(200)]})
    else:
        steps, examples = Synthetic(seeds=(0,)).tables()
        write_frame(steps if kind == STEPS else examples, file, ["key"])
    data = file.read_bytes()
    check_table(data)
    draw = np.random.default_rng(0)
    random = draw.choice(len(data) * 8, size=1000, replace=False).tolist()
    ends = [8 * byte + bit for byte in (*range(12), *range(len(data) - 800, len(data)))
            for bit in (0, 5)]  # fmt: skip
    for bit in [*random, *ends]:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damage):
            check_table(bytes(changed))
    for length in (0, 3, 11, 12, len(data) // 2, len(data) - 1):
        with pytest.raises(Damage, match="it is truncated"):
            check_table(data[:length])
    for changed in (data + b"\0", data + data, b"PAR1" + data):
        with pytest.raises(Damage):
            check_table(changed)
    file.write_bytes(data[:100] + b"\0" + data[101:])
    with pytest.raises(DamagedTable, match=rf"{kind} can't be read: its content does not match"):
        read_table(file)


def test_a_table_of_another_program_is_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame(COLUMNS)
    frame.drop(columns="metric").to_parquet(tmp_path / "frame")
    with pytest.raises(DamagedTable, match="has no checksum: it is damaged, or another version"):
        read_table(tmp_path / "frame")
    write_table(tmp_path / "table", COLUMNS)
    with pytest.raises(DamagedTable, match="found the columns step, metric, value, expected also"):
        read_table(tmp_path / "table", ["value", "example"])
    with pytest.raises(DamagedTable, match="does not list the runs of its rows"):
        runs_of(tmp_path / "table")
    for name in ("nothing", "folder"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        with pytest.raises(DamagedTable, match=f"{name} can't be read: "):
            read_table(tmp_path / name)


def test_a_collected_table_lists_the_keys_of_its_runs(tmp_path: Path) -> None:
    plan = hand_plan(tmp_path, methods=["GA", "NPO"])
    frame = pd.DataFrame({**COLUMNS, "example": [0, 1, 2]})
    for number, cell in enumerate(plan.runs()):
        tables = {STEPS: frame.drop(columns="example").assign(value=number), EXAMPLES: frame}
        write_entry(Path(plan.store) / cell.keys[-1], tables)
    entries, damaged = undamaged(finished(plan), plan)
    assert damaged == [] and collect_records(plan, entries) == 12
    assert runs_of(tmp_path / STEPS) == runs_of(tmp_path / EXAMPLES) == list(entries)
    # An undamaged table of another run.
    first, second, *_ = entries.values()
    (first / STEPS).write_bytes((second / STEPS).read_bytes())
    (second / "entry.json").write_text(json.dumps({"files": {}}))
    kept, damaged = undamaged(finished(plan), plan)
    assert list(kept) == list(entries)[2:]
    assert [line.partition(" is left out: ")[0] for line in damaged] == ["GA/a-b_s0", "NPO/a-b_s0"]
    assert f"{first}, is damaged (records.parquet does not match its checksum)" in damaged[0]
    assert f"{second}, is damaged (entry.json does not name records.parquet)" in damaged[1]


def test_a_document_reads_back_as_written_or_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    values = {"a": [1, 2.5, None], "b": {"c": "ü\n"}, "d": (True, "x")}
    file.write_text(json.dumps(seal_values(values), indent=1))
    assert read_values(file) == {**values, "d": [True, "x"]}
    assert seal_values(seal_values(values)) == seal_values(values)
    text = file.read_bytes()
    draw = np.random.default_rng(0)
    for bit in draw.integers(len(text) * 8, size=300).tolist():
        changed = bytearray(text)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        try:
            # Whitespace between values may change.
            assert read_values(file) == {**values, "d": [True, "x"]}
        except Damage:
            continue
