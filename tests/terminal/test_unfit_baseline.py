"""`mupcheck check` with a baseline that is none, or that belongs to something else: it never hides a failure."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from commands import mupcheck
from planted_checks import plant, write

from mupcheck.cli import exits

check = partial(mupcheck, "check")

UNFIT = [
    ("check here --baseline none.txt", "baseline none.txt does not exist; write it with --update-baseline"),
    ("check here --baseline .", "cannot read the baseline .: Is a directory"),
    ("check here --baseline file", "file is not a baseline of mupcheck: its first line is 'my notes'"),
    ("check here --baseline file --update-baseline", "file is not a baseline of mupcheck"),
    ("check here --baseline empty", "empty is not a baseline of mupcheck: it is empty"),
    ("check here --baseline binary", "binary is not a baseline of mupcheck: it is not text"),
    ("check here --baseline newer.txt", "newer.txt is a baseline of format 99, this mupcheck reads 1"),
    ("check here --baseline cut.txt", "cut.txt is damaged, line "),
    ("check here --baseline edited.txt", "edited.txt is damaged, line "),
    ("check other_sweep --baseline b.txt", "b.txt has no group of the results: sweep is s there and t in the results"),
    ("check other_table --baseline b.txt", "parametrization is gdn-mup there and mup in the results"),
    ("check other_optimizer --baseline b.txt", "optimizer is adamw there and sgd in the results"),
    ("check other_mode --baseline b.txt", "mode is head-dim there and heads in the results"),
    (
        "check other_widths --baseline b.txt",
        "b.txt has widths = 32, 64, 128, 256 for gdn-mup of s, the results have 32",
    ),
    ("check other_lr --baseline b.txt", "b.txt has lr = 0.000244140625 for gdn-mup of s, the results have 0.5"),
    ("check other_rules --baseline b.txt", "b.txt has rules_hash = ab12 for gdn-mup of s, the results have ef56"),
    ("check other_data --baseline b.txt", "b.txt has data_hash = cd34 for gdn-mup of s, the results have other"),
]


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> Path:
    """Return a folder with a baseline, b.txt, results that it does not belong to, and what is no baseline."""
    folder = tmp_path_factory.mktemp("bad")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        heads = plant(mode="heads")
        for name, part in {
            "here": plant(),
            "other_sweep": plant(sweep="t"),
            "other_table": plant(parametrization="mup"),
            "other_optimizer": plant(optimizer="sgd"),
            "other_mode": replace(heads, runs=heads.runs.assign(head_k_dim=8, head_v_dim=16)),
            "other_widths": plant(widths=(32, 64, 128)),
            "other_lr": plant(lr=0.5),
            "other_rules": plant(rules_hash="ef56"),
            "other_data": plant(data_hash="other"),
        }.items():
            write(part, Path(name))
        assert check("here", "--baseline", "b.txt", "--update-baseline").code == exits.OK
        text = Path("b.txt").read_text()
        Path("newer.txt").write_text(text.replace("baseline 1", "baseline 99"))
        Path("cut.txt").write_text("\n".join(text.splitlines()[:-1]))
        Path("edited.txt").write_text(text.replace("later +0", "soon +0").replace("later -0", "soon -0"))
        Path("file").write_text("my notes")
        Path("empty").write_text("")
        Path("binary").write_bytes(b"\xff\xfe\x00")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("line", "said"), UNFIT, ids=[line for line, _ in UNFIT])
def test_a_baseline_of_something_else_hides_no_failure(others, monkeypatch, line, said):
    """What is there is judged and reported; the exit code is that of a wrong command only where nothing failed."""
    monkeypatch.chdir(others)
    before = tree(others)
    for more, code in ((), exits.USAGE), (("--expect", "fail"), exits.FAILED):
        answer = check(*line.split()[1:], "--junit", "j.xml", "--markdown", "m.md", *more)
        assert answer.code == code, answer.out + answer.err
        assert answer.err.count("\n") == 1
        assert said in answer.err or "was not written" in answer.err
        assert "pooled slopes" in answer.out
        wrong = "<failure" if code == exits.FAILED else "<error"
        assert "--update-baseline" in line or wrong in Path("j.xml").read_text()
        assert "### mupcheck check: " in Path("m.md").read_text()
        for written in ("j.xml", "m.md"):
            Path(written).unlink()
    assert tree(others) == before
