"""A pre-norm language model of Gated DeltaNet mixers and SwiGLU MLPs (arXiv:2606.04048, section 6.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mupcheck.model import fused
from mupcheck.model.gdn import GatedDeltaNet
from mupcheck.model.layers import Embedding, Linear, Multiplier, Site, Weight, fan_in_std, rms_norm
from mupcheck.ops.products import product
from mupcheck.spec.model import ModelSpec
from mupcheck.theory.parametrization import Role


class Block(nn.Module):
    """x += mixer(norm(x)); x += W_down(SiLU(W_gate norm(x)) * W_up norm(x))."""

    def __init__(self, n_replicas: int, spec: ModelSpec, backend: str) -> None:
        super().__init__()
        self.norm_eps = spec.norm_eps
        width, hidden, r = spec.width, spec.mlp_ratio * spec.width, n_replicas
        std = spec.projection_std or fan_in_std(spec.base_width, spec.projection_factor)
        down_std = spec.projection_std or fan_in_std(spec.mlp_ratio * spec.base_width, spec.projection_factor)
        self.norm1_gain = Weight(r, width, role=Role.NORM_GAIN, value=1.0)
        self.mixer = GatedDeltaNet(r, spec, backend)
        self.norm2_gain = Weight(r, width, role=Role.NORM_GAIN, value=1.0)
        self.gate_proj = Linear(r, width, hidden, role=Role.HIDDEN, std=std)
        self.up_proj = Linear(r, width, hidden, role=Role.HIDDEN, std=std)
        self.down_proj = Linear(r, hidden, width, role=Role.HIDDEN, std=down_std)
        self.sites = nn.ModuleDict({name: Site() for name in ("norm1", "norm2", "mlp_hidden", "mlp_out", "residual")})

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """Map the residual stream x [R, B * T, D] to the next one."""
        sites = self.sites
        normed = sites["norm1"](rms_norm(x, self.norm1_gain(), self.norm_eps))
        x = x + self.mixer(normed, batch)
        normed = sites["norm2"](rms_norm(x, self.norm2_gain(), self.norm_eps))
        hidden = sites["mlp_hidden"](F.silu(self.gate_proj(normed)) * self.up_proj(normed))
        x = x + sites["mlp_out"](self.down_proj(hidden))
        residual: Tensor = sites["residual"](x)
        return residual


class LanguageModel(nn.Module):
    """R replicas of one model; `runs[r]` trained in replica r, which never sees another."""

    def __init__(self, n_replicas: int, spec: ModelSpec, backend: str = "auto") -> None:
        super().__init__()
        self.spec = spec
        r = n_replicas
        self.embedding = Embedding(r, spec.vocab_size, spec.width, std=spec.std_of_embedding)
        self.blocks = nn.ModuleList(Block(r, spec, backend) for _ in range(spec.n_layers))
        self.final_norm_gain = Weight(r, spec.width, role=Role.NORM_GAIN, value=1.0)
        self.logits_multiplier = Multiplier("logits", spec.logit_scale)
        if not spec.tied:
            self.readout = Linear(
                r, spec.width, spec.vocab_size, role=Role.READOUT, std=spec.readout_std, output=self.logits_multiplier
            )
        self.sites = nn.ModuleDict({name: Site() for name in ("embedding", "final_norm", "logits")})

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [R, B, T] to logits [R, B * T, vocab].

        Raises:
            ValueError: if the tokens have another shape.
        """
        self._check(tokens)
        batch = tokens.shape[1]
        x = self.sites["embedding"](self.embedding(tokens.flatten(1)))
        for block in self.blocks:
            x = block(x, batch)
        x = self.sites["final_norm"](rms_norm(x, self.final_norm_gain(), self.spec.norm_eps))
        if self.spec.tied:
            rows = self.embedding.multiplier(self.embedding.weight)
            logits = product(self.logits_multiplier(x), rows.transpose(1, 2))
        else:
            logits = self.readout(x)
        out: Tensor = self.sites["logits"](logits)
        return out

    def loss(self, tokens: Tensor) -> Tensor:
        """Return the mean next-token cross-entropy of each replica, [R] in nats/token; tokens [R, B, T + 1]."""
        if fused.fits(self, self.embedding.weight):
            self._check(tokens[..., :-1])
            return fused.loss(self, tokens)
        logits = self(tokens[..., :-1])
        targets = tokens[..., 1:].flatten()
        wide = logits.flatten(0, 1)
        wide = wide.float() if wide.dtype == torch.bfloat16 else wide
        return F.cross_entropy(wide, targets, reduction="none").view(tokens.shape[0], -1).mean(1)

    def _check(self, tokens: Tensor) -> None:
        n_replicas = len(self.embedding.weight)
        if tokens.dim() != 3 or len(tokens) != n_replicas:
            hint = "; try tokens[None]" if tokens.dim() == 2 and n_replicas == 1 else ""
            expected = f"[R, B, T] with R = {n_replicas} replica{'s' * (n_replicas > 1)}"
            raise ValueError(f"tokens have shape {list(tokens.shape)}, expected {expected}{hint}")
