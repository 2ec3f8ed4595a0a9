"""What sweep.json says of the path, read back: which entries are of which runs, and the lines that say them."""

import pandas as pd
import pytest

from mupcheck.results.path import BY, QUANTITIES, Departure, Path, path_of, paths_of, say_paths

MACHINE = {"device": "cpu (x)", "torch": "2.13", "mupcheck": "0.1", "commit": "ab"}
LATE = {"what": "o", "width": 64, "layer": 1, "tokens": 165, "error": 0.31, "first": 64, "last": 164}


def entry(*departures, **changes):
    compared = [{"width": width, "tokens": tokens} for width in (32, 64) for tokens in (16, 165)]
    fields = {"backend": "chunk", "dtype": "float32", "error": 3.4e-7, "tolerance": 1e-5, "compared": compared}
    return fields | MACHINE | {"run_ids": ["a", "b"], "departures": list(departures)} | changes


def runs(**changes):
    return pd.DataFrame([{"run_id": name, **MACHINE, **changes} for name in "abc"])


def test_a_path_that_agrees_says_to_what_and_at_which_lengths():
    (path,) = paths_of({"path": [entry()]}, runs())
    assert path.agrees
    assert (path.tokens, path.widths) == ((16, 165), (32, 64))
    assert str(path) == say_paths([path]) == "chunk agrees with the reference to 3.4e-07 at 16 and 165 tokens"
    itself = path_of(entry(backend="reference"))
    assert str(itself) == "reference agrees with itself in float64 to 3.4e-07 at 16 and 165 tokens"


def test_nothing_is_said_of_results_that_do_not_say():
    assert paths_of({}, runs()) == paths_of({"path": []}, runs()) == ()
    assert say_paths(()) == ""


@pytest.mark.parametrize("name", BY)
def test_an_entry_is_of_the_runs_of_its_device_and_versions_alone(name):
    resolved = {"path": [entry()]}
    assert len(paths_of(resolved, runs())) == 1
    assert paths_of(resolved, runs(**{name: "another"})) == ()
    assert paths_of(resolved, runs().query("run_id == 'c'")) == ()  # of another table of the sweep
    # a sweep that went on elsewhere has runs of both
    assert len(paths_of(resolved, pd.concat([runs(), runs(**{name: "another"})]))) == 1
    # who does not know its commit, or was ended before it knew its device, speaks for all
    assert len(paths_of({"path": [entry(**{name: None})]}, runs(**{name: None}))) == 1
    assert len(paths_of({"path": [entry(**{name: None})]}, runs())) == 1


def test_a_departure_says_what_by_how_much_and_where():
    first = Departure(**LATE, chunks=(3, 6, 6))
    assert str(first) == (
        "o is off by 0.31 of its size at width 64, layer 1, tokens 64 to 164 (chunks 3 to 6 of 6) of 165"
    )
    assert str(Departure(**LATE | {"first": 9, "last": 9})).endswith("layer 1, token 9 of 165")
    state = Departure(**LATE | {"what": "final_state", "first": None, "last": None})
    assert str(state) == "final_state is off by 0.31 of its size at width 64, layer 1, after 165 tokens"
    gradient = LATE | {"what": "gradient of v"}
    assert "gradient of v is 0.5 times the reference's at" in str(Departure(**gradient, factor=0.5))
    assert "gradient of v is missing at" in str(Departure(**gradient | {"error": None}, missing=True))
    assert "gradient of v is not finite at" in str(Departure(**gradient | {"error": None}))


def test_a_wrong_path_names_the_first_to_look_at_and_the_rest_by_name():
    others = [LATE | {"what": what, "layer": 0, "width": 32} for what in ("gradient of q", "final_state")]
    (path,) = paths_of({"path": [entry(LATE | {"chunks": [3, 6, 6]}, *others)]}, runs())
    assert not path.agrees
    assert path.departures[0] == Departure(**LATE, chunks=(3, 6, 6))
    assert str(path) == (
        "chunk in float32 is not what the reference computes: o is off by 0.31 of its size at width 64, layer 1, "
        "tokens 64 to 164 (chunks 3 to 6 of 6) of 165; seen at widths 32, 64, layers 0, 1; off too: final_state, "
        "gradient of q; nothing is off at 16 tokens"
    )
    assert say_paths([path]) == "chunk is not what the reference computes"


def test_a_path_that_was_not_compared_says_why_and_the_worst_of_several_is_said():
    agrees, lost = path_of(entry()), path_of(entry(reason="out of memory", compared=[], error=None))
    wrong = path_of(entry(LATE))
    assert not lost.agrees
    assert str(lost) == "chunk was not compared with the reference: out of memory"
    assert say_paths([lost, agrees]) == say_paths([agrees, lost]) == str(lost)
    assert say_paths([agrees, wrong, lost]) == "chunk is not what the reference computes"
    less = path_of(entry(error=1e-9))
    assert say_paths([less, agrees]) == str(agrees)


def test_a_path_that_departs_where_keys_are_alike_alone_agrees_and_says_so():
    path = path_of(entry(strained=[LATE]))
    assert path.agrees
    assert str(path) == str(path_of(entry()))
    assert path.strain.startswith(
        "chunk departs from the reference where keys are alike, as a large lr makes them: o is"
    )
    assert path_of(entry()).strain == ""
    # what is wrong anyway is said as that
    assert path_of(entry(LATE, strained=[LATE])).strain == ""


def test_an_entry_of_a_later_version_or_another_hand_is_read_as_far_as_it_goes():
    later = entry(LATE | {"new": 1}, other={"x": 2})
    assert path_of(later).departures == (Departure(**LATE),)
    assert isinstance(path_of({}), Path)
    assert paths_of({"path": [None, {}, "x"]}, runs()) == paths_of({"path": "x"}, runs()) == ()


def test_values_come_before_gradients_in_what_to_look_at():
    assert QUANTITIES[:2] == ("o", "final_state")
    assert len(QUANTITIES) == 7
