"""One run as it is written, and the files of a folder."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mupcheck.results.reading import SCHEMAS
from mupcheck.results.writing import row_sha256_of, write_run

# contract.md, "Files"
CONTRACT = {
    "runs": """schema_version run_id sweep kind parametrization rules_hash optimizer mode width base_width seed lr
        log2_lr weight_decay decay_mode momentum schedule warmup_steps clip clipped_fraction n_layers n_heads head_k_dim
        head_v_dim tied vocab_size batch_size seq_len steps data data_hash dtype backend n_params status diverged_step
        reason train_loss val_loss best_val_loss tokens wall_seconds tokens_per_second peak_memory_bytes device commit
        torch triton python started_at eps beta1 beta2 min_lr accumulation mlp_ratio conv_size embedding_std
        projection_std projection_factor conv_std readout_std logit_scale norm_eps mupcheck devices""",
    "steps": "run_id step tokens loss val_loss grad_norm lr_scale",
    "coords": "run_id step layer site kind stat value",
}
STARTED = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)


def example_run(run_id="ab", **changes):
    """A row with a value in every column that must have one."""
    examples = {"string": "x", "double": 0.1, "bool": True, "timestamp[us, tz=UTC]": STARTED}
    row = {f.name: examples.get(str(f.type), 7) for f in SCHEMAS["runs"] if not f.nullable}
    set_by_store = ("schema_version", "steps_sha256", "row_sha256")
    return {k: v for k, v in row.items() if k not in set_by_store} | {"run_id": run_id, "sweep": "s"} | changes


def example_steps(n=3, loss=2.5):
    return {
        "step": np.arange(n),
        "tokens": np.arange(n) * 64,
        "loss": [loss] * n,
        "val_loss": [None] * n,
        "grad_norm": np.ones(n, dtype=np.float32),
        "lr_scale": [1.0] * n,
    }


def example_coords(n=4):
    names = {"site": ["q_proj"] * n, "kind": ["weight"] * n, "stat": ["rms"] * n}
    return names | {"step": [0] * n, "layer": [-1] * n, "value": np.linspace(0, 1, n)}


def write_example(folder, run_id="ab", **changes):
    write_run(folder, example_run(run_id, **changes), example_steps(), example_coords())


def files_under(folder):
    return sorted(str(file.relative_to(folder)) for file in Path(folder).rglob("*") if file.is_file())


def refusal(call, *args, **kwargs):
    """The message of the ValueError, which must be one line."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def without(columns, folder):
    """Rewrite the run files of a folder as a mupcheck that did not know these columns had written them."""
    for file in (folder / "runs").iterdir():
        row = pq.read_table(file).drop_columns(list(columns))
        seal = row_sha256_of(row.to_pylist()[0])
        pq.write_table(row.set_column(row.num_columns - 1, row.schema.field("row_sha256"), pa.array([seal])), file)
