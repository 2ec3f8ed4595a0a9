"""The fixture `coord_check`, in pytest runs of its own: trains once, explains what fails, costs nothing unused."""

import os
import subprocess
import sys

import pytest
import torch._inductor.test_operators  # noqa: F401  the first step of a torch optimizer imports it

# pytester forgets what a run in this process imports, and neither numpy nor torch can be imported twice
import mupcheck.audit.run
import mupcheck.gate.check
import mupcheck.sweep.runner
import mupcheck.training.data
import mupcheck.training.train  # noqa: F401
from mupcheck.gate.pytest_plugin import DEFAULTS, coord_check

pytest_plugins = ["pytester"]

RULES = """
name = "gates-too-slow"
base = "gdn-mup"
[[rule]]
role = "gate"
optimizer = "sgd"
lr = -2.0
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """Return a function that runs a test file with the plugin alone; an installed one would be a second of its name."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run_file(text: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(text)
        monkeypatch.delenv("CI", raising=False)  # there pytest repeats whole messages in its summary
        return pytester.runpytest_inprocess("-p", "mupcheck.gate.pytest_plugin", *arguments)

    return run_file


def test_a_shipped_and_a_custom_table_are_checked(run, pytester):
    (pytester.mkdir("rules") / "mine.toml").write_text(RULES)
    done = run(
        """
        import torch

        quick = dict(mode="heads", widths=(32, 64, 128), seeds=4, record=(0, 1))

        def test_passes(coord_check):
            threads = torch.get_num_threads()
            torch.set_num_threads(threads + 1)
            answer = coord_check("gdn-mup", "adamw", mode="heads", n_layers=1, seeds=16, record=[0, 1])
            assert torch.get_num_threads() == threads + 1
            torch.set_num_threads(threads)
            answer.assert_passes()
            assert answer.verdict == answer.judgement.verdict == "pass"
            assert answer.judgement.measured["data"] == "synthetic"
            assert (answer.folder / "sweep.json").exists()

        def test_fails_as_it_should(coord_check):
            coord_check("rules/mine.toml", "sgd", **quick).assert_fails()

        def test_fails(coord_check):
            coord_check("rules/mine.toml", "sgd", **quick).assert_passes()
        """
    )
    done.assert_outcomes(passed=2, failed=1)
    done.stdout.fnmatch_lines(
        [
            "*test_fails*",
            "E * AssertionError: coordinate check of gates-too-slow (sgd, heads): fail, expected pass",
            "E *reason: effective_update rms of [ab]_proj*: slope -[12].* required 0 +- 0.25",
            "E *slope: *",
            "E *to see it: mupcheck check * --all, or mupcheck plot *",
            "E *what it means: mupcheck explain slopes",
        ]
    )
    assert "pytest_plugin.py" not in done.stdout.str(), "the traceback is the test's own"


def test_an_equal_check_is_trained_once(run):
    done = run(
        """
        import mupcheck.sweep.runner

        small = dict(widths=[16, 32, 64], n_heads=2, n_layers=1, seeds=2, record=[0, 1])
        trained = []

        def test_one(coord_check, monkeypatch):
            train = mupcheck.sweep.runner.run_sweep
            def counted(*args, **options):
                trained.append(args)
                return train(*args, **options)
            monkeypatch.setattr("mupcheck.sweep.runner.run_sweep", counted)
            first = coord_check("gdn-mup", **small)
            assert coord_check("gdn-mup", "adamw", mode="head-dim", **small) is first
            assert len(trained) == 1
            assert coord_check("gdn-mup", lr=2.0**-10, **small) is not first
            assert len(trained) == 2
            assert first.judgement.measured["lr"] == 2.0**-12

        def test_two(coord_check, monkeypatch):
            monkeypatch.setattr("mupcheck.sweep.runner.run_sweep", None)
            coord_check("gdn-mup", **small)
        """
    )
    done.assert_outcomes(passed=2)


def test_what_cannot_be_told_is_no_pass_and_no_fail(run):
    done = run(
        """
        small = dict(widths=[16, 32, 64], n_heads=2, n_layers=1, seeds=1, record=[0, 1])

        def test_passes(coord_check):
            coord_check("gdn-mup", **small).assert_passes()

        def test_fails(coord_check):
            coord_check("gdn-mup", **small).assert_fails()
        """
    )
    done.assert_outcomes(failed=2)
    assert done.stdout.str().count("coordinate check of gdn-mup (adamw, head-dim): cannot tell\n") == 2
    assert done.stdout.str().count("what it means: mupcheck explain cannot-tell") == 2
    assert done.stdout.str().count("one seed, so the interval is only that of the fit's residuals") >= 2


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("'gdn-mup', width=[16, 32]", "coord_check: unknown key 'width', perhaps widths; known: accumulation"),
        ("'gdn-mup', 'muon'", "coord_check: optimizer = 'muon' is not allowed"),
        ("'nope'", "coord_check: parametrizations: unknown parametrization 'nope'; known: sp, "),
        ("'nope.toml'", "coord_check: parametrizations: cannot read the rules file nope.toml: No such file"),
        ("'gdn-mup', widths=[16, 20]", "coord_check: widths: width 20 is not allowed"),
    ],
)
def test_wrong_use_is_one_line(run, call, said):
    done = run(f"def test_it(coord_check):\n    coord_check({call})")
    done.assert_outcomes(failed=1)
    assert said in done.stdout.str() and "(mupcheck explain ci)" in done.stdout.str()
    assert "Traceback" not in done.stdout.str() and "spec.py" not in done.stdout.str()


def test_it_is_listed_with_what_it_does(run):
    done = run("def test_it(): pass", "--fixtures")
    done.stdout.fnmatch_lines(["coord_check*", "*Return a function that trains and judges a coordinate check*"])


def test_its_defaults_are_those_that_its_text_names():
    assert DEFAULTS == {
        "widths": (32, 64, 128, 256),
        "seeds": 12,
        "n_layers": 1,
        "record": (0, 1, 3),
        "data": "synthetic",
    }
    text = " ".join(coord_check.__doc__.split())
    assert "(default: widths 32 to 256, 12 seeds, one layer, steps 0, 1 and 3, synthetic data)" in text


def test_unused_it_imports_nothing(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import sys\n"
        "def test_it():\n"
        "    heavy = {'torch', 'pandas', 'numpy', 'scipy', 'pyarrow', 'pydantic', 'typer', 'mupcheck.spec'}\n"
        "    assert heavy.isdisjoint(sys.modules) and 'mupcheck.gate.pytest_plugin' in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "mupcheck.gate.pytest_plugin", "test_it.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_model_of_ones_own_is_checked(run):
    done = run(
        """
        import torch
        from torch import nn

        class Mup(nn.Module):
            def __init__(self, width, mup=True):
                super().__init__()
                self.m = width / 32 if mup else 1.0
                self.inner = nn.Sequential(nn.Embedding(32, width), nn.Linear(width, width), nn.Tanh())
                self.head = nn.Linear(width, 32, bias=False)
                if mup:
                    nn.init.normal_(self.head.weight, std=0.2)

            def forward(self, tokens):
                return self.head(self.inner(tokens)) / self.m

        def optimizer(model, lr=2**-10):
            hidden = [model.inner[1].weight]
            rest = [p for p in model.parameters() if p is not hidden[0]]
            groups = [{"params": hidden, "lr": lr / model.m}, {"params": rest, "lr": lr}]
            return torch.optim.AdamW(groups, eps=1e-12, weight_decay=0)

        def test_passes(coord_check):
            coord_check(Mup, optimizer, widths=(32, 64, 128)).assert_passes()

        def test_it_can_fail(coord_check):
            coord_check(lambda width: Mup(width, mup=False), widths=(32, 64, 128), seeds=4).assert_fails()

        def test_explains_what_fails(coord_check):
            coord_check(lambda width: Mup(width, mup=False), widths=(32, 64, 128), seeds=4).assert_passes()

        def test_says_what_is_wrong(coord_check):
            coord_check(lambda width: width)
        """
    )
    done.assert_outcomes(passed=2, failed=2)
    done.stdout.fnmatch_lines(["*effective update grows as m^+*lr too large by m^+1*likewise *"])
    done.stdout.fnmatch_lines(["*coord_check: build(64) of <lambda> returned int, not a torch.nn.Module*"])
