"""The columns of the three tables on disk, with their units: what scripts and other tools may rely on."""

import pyarrow as pa

SCHEMA_VERSION = 1
# Columns of runs that files of version 1 had not from the first: a file without them is read, and they are null there.
SETTINGS = (
    *("eps", "beta1", "beta2", "min_lr", "accumulation", "mlp_ratio", "conv_size", "embedding_std", "projection_std"),
    *("projection_factor", "conv_std", "readout_std", "logit_scale", "norm_eps"),
)
ADDED = (*SETTINGS, "mupcheck", "devices")

_STR, _I32, _I64, _F64 = pa.string(), pa.int32(), pa.int64(), pa.float64()


def _field(name: str, kind: pa.DataType, unit: str, description: str, *, null: bool = False) -> pa.Field:
    """A column; unit is "1" for a pure number and "" for a name; null: may be absent."""
    return pa.field(name, kind, nullable=null, metadata={"description": description, "unit": unit})


ROWS = " rows "  # in a site of a user's model, between the name of a fused parameter and that of some of its rows
# What is known of a run that others measured and mupcheck imported; the other columns are null where nothing is said.
OF_IMPORTED = (
    *("schema_version", "run_id", "sweep", "kind", "parametrization", "optimizer", "mode", "width", "seed", "status"),
    *("steps_sha256", "row_sha256"),
)

SCHEMAS: dict[str, pa.Schema] = {
    "runs": pa.schema(
        [
            _field("schema_version", _I32, "1", "version of these tables"),
            _field("run_id", _STR, "", "hash of everything that determines the result; the file's name"),
            _field("sweep", _STR, "", "name of the sweep"),
            _field("kind", _STR, "", "coord or lr"),
            _field("parametrization", _STR, "", "name of the table of rules"),
            _field("rules_hash", _STR, "", "hash of the table of rules"),
            _field("optimizer", _STR, "", "adamw or sgd"),
            _field("mode", _STR, "", "how the model widens: head-dim or heads"),
            _field("width", _I32, "1", "size of the residual stream"),
            _field("base_width", _I32, "1", "width at which all factors are 1"),
            _field("seed", _I64, "1", "seed of the initial values and of the batches"),
            _field("lr", _F64, "1", "swept learning rate, before rules and schedule"),
            _field("log2_lr", _F64, "octaves", "log2 of lr"),
            _field("weight_decay", _F64, "1", "weight decay"),
            _field("decay_mode", _STR, "", "coupled or independent of lr"),
            _field("momentum", _F64, "1", "Nesterov momentum; null where there is none", null=True),
            _field("schedule", _STR, "", "name of the lr schedule"),
            _field("warmup_steps", _I32, "steps", "length of the warm-up"),
            _field("clip", _F64, "1", "gradient norm clipped to; null where clipping is off", null=True),
            _field("clipped_fraction", _F64, "1", "share of steps that were clipped", null=True),
            _field("n_layers", _I32, "1", "number of blocks"),
            _field("n_heads", _I32, "1", "heads at this width"),
            _field("head_k_dim", _I32, "1", "key dim of a head at this width"),
            _field("head_v_dim", _I32, "1", "value dim of a head at this width"),
            _field("tied", pa.bool_(), "", "whether embedding and readout share their weight"),
            _field("vocab_size", _I32, "tokens", "size of the vocabulary"),
            _field("batch_size", _I32, "sequences", "sequences a step"),
            _field("seq_len", _I32, "tokens", "tokens a sequence"),
            _field("steps", _I32, "steps", "steps asked for"),
            _field("data", _STR, "", "source of the batches"),
            _field("data_hash", _STR, "", "hash of what the batches depend on"),
            _field("dtype", _STR, "", "number type of the training"),
            _field("backend", _STR, "", "backend of the gated delta rule"),
            _field("n_params", _I64, "1", "number of trained values"),
            _field("status", _STR, "", "ok, diverged, stopped or failed"),
            _field("diverged_step", _I32, "steps", "step at which the run was frozen; null if none", null=True),
            _field("reason", _STR, "", "why the run diverged, was stopped or failed; null if ok", null=True),
            _field("train_loss", _F64, "nats/token", "training loss at the end", null=True),
            _field("val_loss", _F64, "nats/token", "held-out loss at the end", null=True),
            _field("best_val_loss", _F64, "nats/token", "lowest held-out loss", null=True),
            _field("tokens", _I64, "tokens", "tokens trained on"),
            _field("wall_seconds", _F64, "s", "training time of the group that the run was in"),
            _field("tokens_per_second", _F64, "tokens/s", "tokens over wall_seconds", null=True),
            _field("peak_memory_bytes", _I64, "bytes", "peak memory of the device; null if unknown", null=True),
            _field("device", _STR, "", "device trained on"),
            _field("commit", _STR, "", "commit of mupcheck; null outside a checkout", null=True),
            _field("torch", _STR, "", "version of torch"),
            _field("triton", _STR, "", "version of triton; null if not installed", null=True),
            _field("python", _STR, "", "version of Python"),
            _field("started_at", pa.timestamp("us", tz="UTC"), "UTC", "start of the run"),
            _field("eps", _F64, "1", "AdamW's eps at the base width; null under SGD", null=True),
            _field("beta1", _F64, "1", "AdamW's decay of the mean; null under SGD", null=True),
            _field("beta2", _F64, "1", "AdamW's decay of the mean square; null under SGD", null=True),
            _field("min_lr", _F64, "1", "lr at the end of the schedule; null where it is constant", null=True),
            _field("accumulation", _I32, "1", "parts of a batch that went through the model in turn", null=True),
            _field("mlp_ratio", _I32, "1", "MLP hidden size / width", null=True),
            _field("conv_size", _I32, "1", "taps of the short convolutions", null=True),
            _field("embedding_std", _F64, "1", "std of the embedding at the base width", null=True),
            _field("projection_std", _F64, "1", "std of projections; null: by projection_factor", null=True),
            _field("projection_factor", _F64, "1", "std of projections x sqrt(fan_in) at the base width", null=True),
            _field("conv_std", _F64, "1", "std of the short convolutions' taps", null=True),
            _field("readout_std", _F64, "1", "std of the readout at the base width; null where tied", null=True),
            _field("logit_scale", _F64, "1", "constant factor on the logits", null=True),
            _field("norm_eps", _F64, "1", "eps of every RMSNorm", null=True),
            _field("mupcheck", _STR, "", "version of mupcheck; null where it is not installed", null=True),
            _field("devices", _I32, "1", "devices that trained the run together", null=True),
            _field("steps_sha256", _STR, "", "sha256 of the run's steps file"),
            _field("coords_sha256", _STR, "", "sha256 of the run's coords file; null if it has none", null=True),
            _field("row_sha256", _STR, "", "sha256 of the other values of this row, as JSON"),
        ]
    ),
    "steps": pa.schema(
        [
            _field("run_id", _STR, "", "the run"),
            _field("step", _I32, "steps", "steps taken before this row was measured"),
            _field("tokens", _I64, "tokens", "tokens trained on so far"),
            _field("loss", _F64, "nats/token", "training loss", null=True),
            _field("val_loss", _F64, "nats/token", "held-out loss; null where not measured", null=True),
            _field("grad_norm", _F64, "1", "global gradient norm before clipping", null=True),
            _field("lr_scale", _F64, "1", "factor of the schedule"),
        ]
    ),
    "coords": pa.schema(
        [
            _field("run_id", _STR, "", "the run"),
            _field("step", _I32, "steps", "steps taken before this row was measured"),
            _field("layer", _I32, "1", "block, from 0; -1 outside blocks"),
            _field("site", _STR, "", "where it was measured, or the parameter's name"),
            _field("kind", _STR, "", "what was measured"),
            _field("stat", _STR, "", "rms, mean_abs, spectral, mean, fraction or median"),
            _field("value", _F64, "1", "the coordinate size", null=True),
        ]
    ),
}


IMPORTED = pa.schema([field.with_nullable(field.name not in OF_IMPORTED) for field in SCHEMAS["runs"]])
