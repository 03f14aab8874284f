"""Lists of prompts: every kind of file, ids, and what is refused."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from vlm3d_gs.batch.items import Item, Shared, item_config
from vlm3d_gs.batch.parquet import can_parquet
from vlm3d_gs.batch.prompts import read_prompts
from vlm3d_gs.core.errors import ConfigError, InputFileError, MissingDependencyError

SHARED = Shared()
ROWS = [
    {"prompt": "a red cube", "seed": 3, "optim.sh_lr": 0.01},
    {"prompt": "a blue sphere, shiny", "seed": None, "optim.sh_lr": None},
]


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_all_kinds_of_lists_give_the_same_ids(tmp_path: Path) -> None:
    jsonl = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS))
    csv = write(
        tmp_path / "a.csv",
        '\ufeffprompt,seed,optim.sh_lr\r\na red cube,3,0.01\r\n"a blue sphere, shiny",,\r\n',
    )
    nested = write(
        tmp_path / "b.jsonl",
        '{"prompt": " a  red cube", "train": {"seed": 3}, "optim": {"sh_lr": 0.01}}\n'
        '"a blue sphere, shiny"\n',
    )
    lists = [read_prompts(path, SHARED).items for path in (jsonl, csv, nested)]
    assert len({tuple(item.id for item in items) for items in lists}) == 1
    assert lists[0][0].settings == (("optim.sh_lr", "0.01"), ("train.seed", "3"))
    assert lists[0][0].seed == 3


def test_parquet_is_read_or_says_what_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    if not can_parquet():
        with pytest.raises(MissingDependencyError, match=r"vlm3d-gs\[parquet\]"):
            read_prompts(str(path), SHARED)
        pytest.skip("pyarrow is not installed")

    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    jsonl = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS))
    ids = [[item.id for item in read_prompts(str(each), SHARED).items] for each in (path, jsonl)]
    assert ids[0] == ids[1]

    path.write_bytes(b"PAR1 but not really")
    with pytest.raises(InputFileError, match="as parquet"):
        read_prompts(str(path), SHARED)


def test_sentences_skip_comments_and_repetitions(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "# mine\na red cube\n\na  red cube \na blue cube\n")
    found = read_prompts(path, SHARED)
    assert [(item.prompt, item.line) for item in found.items] == [
        ("a red cube", 2),
        ("a blue cube", 5),
    ]
    assert found.repeated == 1


@pytest.mark.parametrize("text", ["a red cube\n", '{"prompt": "a red cube"}\n'])
def test_standard_input_takes_sentences_and_objects(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))
    assert [item.prompt for item in read_prompts("-", SHARED).items] == ["a red cube"]


def test_an_id_depends_on_all_that_is_said_and_on_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "a red cube\n")
    other = write(tmp_path / "b.txt", "# another place in the list\n\na red cube\n")
    ids = {
        read_prompts(each, shared).items[0].id
        for each, shared in (
            (path, SHARED),
            (other, SHARED),
            (path, Shared(settings=(("train.steps", "30"),))),
            (path, Shared(preset="mini-draft")),
            (path, Shared(seeds=4)),
        )
    }
    assert len(ids) == 4


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": ""}, "prompt must be a sentence"),
        ({"seed": 3}, "prompt must be a sentence"),
        ({"prompt": "a red cube", "optim.sh_lrs": 1}, "Did you mean 'optim.sh_lr'"),
        ({"prompt": "a red cube", "seed": -1}, "train.seed must be in"),
        ({"prompt": "a red cube", "seed": "x"}, "train.seed must be a whole number"),
        ({"prompt": "a red cube", "out": "elsewhere"}, "same for the whole batch"),
        ({"prompt": "a red cube", "id": "../up"}, "id must be letters"),
        ({"prompt": "a red cube", "preset": "huge"}, "preset must be one of"),
        ({"prompt": "a red cube", "id": "taken", "seed": 4}, "is that of line 1"),
    ],
)
def test_a_bad_row_is_named_with_its_line(
    tmp_path: Path, row: dict[str, object], message: str
) -> None:
    rows = [{"prompt": "a red cube", "id": "taken"}, row]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(each) + "\n" for each in rows))
    with pytest.raises(ConfigError, match="1 of the rows") as caught:
        read_prompts(path, SHARED)
    assert "line 2: " in str(caught.value)
    assert message in str(caught.value)


def test_many_bad_rows_are_counted_and_few_are_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"prompt": ""}\n' * 12)
    with pytest.raises(ConfigError, match="12 of the rows") as caught:
        read_prompts(path, SHARED)
    assert str(caught.value).count("line ") == 5
    assert "7 more" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.doc", "a red cube", "must be a list of prompts"),
        ("a.jsonl", "{", "line 1 is not JSON"),
        ("a.jsonl", "[1]", "must be an object"),
        ("a.csv", "text\na red cube\n", "no column 'prompt'"),
        ("a.csv", "prompt\na red cube,and more\n", "more cells than columns"),
        ("a.csv", "", "no column 'prompt'"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(InputFileError, match=message):
        read_prompts(write(tmp_path / name, text), SHARED)


def test_an_empty_an_absent_and_a_foreign_list_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no prompt"):
        read_prompts(write(tmp_path / "a.txt", "\n# nothing\n"), SHARED)
    with pytest.raises(InputFileError, match="Cannot read"):
        read_prompts(str(tmp_path / "absent.txt"), SHARED)
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(InputFileError, match="UTF-8"):
        read_prompts(str(tmp_path / "latin.txt"), SHARED)


def test_a_rows_settings_win_over_the_batchs(tmp_path: Path) -> None:
    shared = Shared(preset="mini-draft", settings=(("train.steps", "30"), ("train.seed", "5")))
    item = Item("a red cube", (("preset", "mini"), ("train.seed", "7")))
    config = item_config(item, shared, tmp_path)
    assert (config.preset, config.train.steps, config.train.seed) == ("mini", 30, 7)
    assert config.out == tmp_path
