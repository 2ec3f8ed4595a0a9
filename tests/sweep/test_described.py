"""What of `sweep.json` says that a sweep is the same one."""

from small_specs import sweep

from mupcheck.sweep.described import _asks_for


def said(**given):
    return sweep(seeds=2, **given).model_dump(mode="json")


def test_a_sweep_that_was_described_before_there_was_a_key_is_the_same_sweep():
    older = {key: value for key, value in said().items() if key != "seeds_of"}
    assert _asks_for(older) == _asks_for(said())
    assert _asks_for(older) != _asks_for(said(seeds_of={"gdn-mup": 3}))
    assert _asks_for(said(refine=True)) != _asks_for(said())
