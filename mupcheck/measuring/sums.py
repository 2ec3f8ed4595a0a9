"""The rms of activations where kernels sum their squares: each site keeps a place for it, and one launch reads all."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mupcheck.model.layers import SizeHook

Place = tuple[int, str]  # layer and site


class Left(NamedTuple):
    """How many programs leave sums of how many values of a replica at a site."""

    place: Place
    programs: int
    values: int


class Sums:
    """What programs left at the sites of one model since the last `take`, in memory that stays where it is.

    Args:
        n_replicas: R.
        device: of the model.
    """

    def __init__(self, n_replicas: int, device: torch.device) -> None:
        self.n_replicas, self.device = n_replicas, device
        self.rooms: dict[Left, Tensor] = {}
        self.asked: dict[Place, Left] = {}
        self.tables: dict[tuple[Left, ...], list[Tensor]] = {}

    def hook(self, place: Place, shown: Callable[[Tensor], None]) -> SizeHook:
        """Return a hook of the site at `place`; where it is shown a value, `shown` takes it."""
        return _Hook(self, place, shown)

    def room(self, place: Place, programs: int, values: int) -> Tensor:
        """Return where the sums of a site go, float32 [R, programs]."""
        key = self.asked[place] = Left(place, programs, values)
        if key not in self.rooms:
            self.rooms[key] = torch.zeros(self.n_replicas, programs, dtype=torch.float32, device=self.device)
        return self.rooms[key]

    def take(self) -> dict[Place, Tensor]:
        """Return the rms, float32 [R], of each site whose sums were left since the last call."""
        if not self.asked:
            return {}
        from mupcheck.ops.kernels.sizes import roots

        keys = tuple(self.asked.values())
        if keys not in self.tables:  # a copy from the host, which a graph that is captured later need not make
            self.tables[keys] = [
                torch.tensor([self.rooms[key].data_ptr() for key in keys], dtype=torch.int64, device=self.device),
                torch.tensor([key.programs for key in keys], dtype=torch.int32, device=self.device),
                torch.tensor([key.values for key in keys], dtype=torch.float32, device=self.device),
            ]
        sizes = roots(*self.tables[keys], replicas=self.n_replicas)
        places = list(self.asked)
        self.asked.clear()
        return dict(zip(places, sizes.unbind(), strict=True))


class _Hook(SizeHook):
    def __init__(self, sums: Sums, place: Place, shown: Callable[[Tensor], None]) -> None:
        self.sums, self.place, self.shown = sums, place, shown

    def __call__(self, _module: nn.Module, _args: tuple, out: Tensor) -> None:
        self.shown(out)

    def room(self, programs: int, values: int) -> Tensor:
        return self.sums.room(self.place, programs, values)
