"""The Gated DeltaNet token mixer (arXiv:2412.06464; as in arXiv:2606.04048, section 3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mupcheck.model.layers import Linear, Multiplier, ShortConv, Site, Weight, fan_in_std, rms_norm, unit_norm
from mupcheck.ops import gated_delta_rule
from mupcheck.spec.model import ModelSpec
from mupcheck.theory.parametrization import Role


class DeltaRule(nn.Module):
    """The gated delta rule as this model calls it, so that who compares it with the reference can hook its inputs."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.backend = backend

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, log_alpha: Tensor, beta: Tensor, *, final_state: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Return what `mupcheck.ops.gated_delta_rule` does, from a state of zeros."""
        return gated_delta_rule(q, k, v, log_alpha, beta, backend=self.backend, final_state=final_state)


class GatedDeltaNet(nn.Module):
    """q, k, v through projection, short convolution and SiLU; decay and write gates; the delta rule; an output gate."""

    def __init__(self, n_replicas: int, spec: ModelSpec, backend: str) -> None:
        super().__init__()
        self.rule = DeltaRule(backend)
        self.norm_eps = spec.norm_eps
        self.heads = heads, k_dim, v_dim = spec.heads
        base_heads, _, base_v_dim = spec.base_heads
        width, r = spec.width, n_replicas
        std = spec.projection_std or fan_in_std(spec.base_width, spec.projection_factor)
        out_std = spec.projection_std or fan_in_std(base_heads * base_v_dim, spec.projection_factor)

        self.q_proj = Linear(r, width, heads * k_dim, role=Role.HIDDEN, std=std)
        self.k_proj = Linear(r, width, heads * k_dim, role=Role.HIDDEN, std=std)
        self.v_proj = Linear(r, width, heads * v_dim, role=Role.HIDDEN, std=std)
        self.g_proj = Linear(r, width, heads * v_dim, role=Role.HIDDEN, std=std)
        self.a_proj = Linear(r, width, heads, role=Role.GATE, std=std)
        self.b_proj = Linear(r, width, heads, role=Role.GATE, std=std)
        self.q_conv1d = ShortConv(r, heads * k_dim, spec.conv_size, std=spec.conv_std)
        self.k_conv1d = ShortConv(r, heads * k_dim, spec.conv_size, std=spec.conv_std)
        self.v_conv1d = ShortConv(r, heads * v_dim, spec.conv_size, std=spec.conv_std)
        self.A_log = Weight(r, heads, role=Role.GATE_SCALAR)
        self.dt_bias = Weight(r, heads, role=Role.GATE_SCALAR)
        self.o_norm_gain = Weight(r, v_dim, role=Role.HEAD_NORM_GAIN, value=1.0)
        self.o_proj = Linear(r, heads * v_dim, width, role=Role.HIDDEN, std=out_std, output=Multiplier("mixer_out"))
        self.o_multiplier = Multiplier("o_raw")
        self.sites = nn.ModuleDict(
            {
                name: Site()
                for name in (
                    *("q_pre", "k_pre", "v_pre", "q_conv", "k_conv", "v_conv", "q_unit", "k_unit"),
                    *("z_alpha", "z_beta", "alpha", "beta", "state", "qk", "o_raw", "o_norm", "gate", "mixer_out"),
                )
            }
        )

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """Mix tokens: x [R, B * T, D] to the same shape, B = `batch`."""
        sites, (heads, k_dim, v_dim) = self.sites, self.heads
        n_replicas, tokens, _ = x.shape
        time = tokens // batch

        def conv_branch(name: str, projection: Linear, conv: ShortConv, head_dim: int) -> Tensor:
            pre = sites[f"{name}_pre"](projection(x)).view(n_replicas, batch, time, heads * head_dim)
            out = sites[f"{name}_conv"](F.silu(conv(pre)))
            return out.view(n_replicas * batch, time, heads, head_dim)

        q = sites["q_unit"](unit_norm(conv_branch("q", self.q_proj, self.q_conv1d, k_dim)))
        k = sites["k_unit"](unit_norm(conv_branch("k", self.k_proj, self.k_conv1d, k_dim)))
        v = conv_branch("v", self.v_proj, self.v_conv1d, v_dim)

        z_alpha = sites["z_alpha"](self.a_proj(x))
        z_beta = sites["z_beta"](self.b_proj(x))
        # a vector register and its scalar remainder may round exp differently; in float64 first, replicas stay equal
        decay = self.A_log().double().exp().to(z_alpha.dtype)[:, None]
        log_alpha = -decay * F.softplus(z_alpha + self.dt_bias()[:, None])  # [R, N, H]
        beta = sites["beta"](torch.sigmoid(z_beta))
        if sites["alpha"].watched:
            sites["alpha"](log_alpha.exp())
        if sites["qk"].watched:
            sites["qk"]((q * k).sum(-1))

        gate_shape = (n_replicas * batch, time, heads)
        gates = log_alpha.reshape(gate_shape), beta.reshape(gate_shape)
        o, state = self.rule(q, k, v, *gates, final_state=sites["state"].watched)
        if state is not None:
            sites["state"](state)
        o = self.o_multiplier(o.reshape(n_replicas, tokens, heads, v_dim))
        o = sites["o_norm"](rms_norm(sites["o_raw"](o), self.o_norm_gain(), self.norm_eps))
        gate = sites["gate"](F.silu(self.g_proj(x)))
        y: Tensor = sites["mixer_out"](self.o_proj(o.reshape(n_replicas, tokens, heads * v_dim) * gate))
        return y
