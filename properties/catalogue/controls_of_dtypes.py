"""Controls that compute, or are given parameters, in a short dtype as they declare: what no law may accuse, as in
`properties.catalogue.controls`."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Mappings, Params
from mhc_ref.block import by_channel, check_params
from properties.core.deviant import Deviant
from properties.core.reads import read_of
from properties.core.slips import Controls

CONTROLS = Controls()
control = CONTROLS.control


@control("half")
class Half(Deviant):
    """States are float16, whose contract is the one of bfloat16 with a smaller unit and a nearer end."""

    dtypes = (torch.float16,)


@control("short-parameters")
class ShortParameters(Deviant):
    """Parameters are stored in the dtype of the state, as declared, and widened before anything is computed of them."""

    dtypes = (torch.bfloat16,)
    parameters = "state"


@control("short-stages")
class ShortStages(Deviant):
    """The state is normalised and multiplied by phi, and logits, gates and the branch input are made, in the dtype of
    the state, as declared; h_res is computed in float32 of logits of that dtype."""

    dtypes = (torch.bfloat16,)
    parameters = "state"
    short_stages = ("norm", "products", "logits", "gates", "read")
    state: torch.dtype

    def prepare(self) -> None:
        self.state = torch.float32

    def at(self, stage: str, *values: Tensor) -> list[Tensor]:
        """What a stage computes of, in the dtype in which it does."""
        return [one.to(self.state if stage in self.short_stages else torch.float32) for one in values]

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        self.state = x.dtype
        return super().mappings(x, params)

    def normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return super().normalised(self.at("norm", x)[0], None if weight is None else self.at("norm", weight)[0])

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        return super().matmul(*self.at("products", state, phi))

    def dynamic(self, projected: Tensor) -> Tensor:
        return super().dynamic(*self.at("logits", projected))

    def gated(self, dynamic: Tensor, gate: Tensor, static: Tensor) -> Tensor:
        return super().gated(*self.at("logits", dynamic, gate, static))

    def read_weights(self, logits: Tensor, x: Tensor, params: Params) -> Tensor:
        logits, phi = self.at("gates", logits, params.phi)
        return super().read_weights(logits, x, params._replace(phi=phi))

    def h_pre(self, logits: Tensor) -> Tensor:
        return super().h_pre(*self.at("gates", logits))

    def h_post(self, logits: Tensor) -> Tensor:
        return super().h_post(*self.at("gates", logits))

    def h_res(self, logits: Tensor, n: int) -> Tensor:
        return super().h_res(self.at("projection", logits)[0], n)

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        self.state = x.dtype
        return super().pre(x, h_pre)

    def gathered(self, x: Tensor, h_pre: Tensor) -> Tensor:
        x, h_pre = self.at("read", x, h_pre)
        terms = by_channel(h_pre, x) * x
        total = terms[..., 0, :]
        for k in range(1, x.shape[-2]):
            total = total + terms[..., k, :]
        return total

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        self.state = x.dtype
        return super().collapse(x, params)

    def head(self, x: Tensor, params: Params) -> Tensor:
        if not read_of(self.computed).by_stream:
            return super().head(x, params)
        n, shared = x.shape[-2], self.computed.shared_projection
        state, phi = self.at("products", self.normalised(x, params.norm_weight), params.phi)
        projected = state @ phi[:, 0] if shared else state.flatten(-2) @ phi[:, :n]
        return self.h_pre(self.gated(self.dynamic(projected), params.alpha[0], params.bias[:n]))


@control("short-parameters-of-float16")
class HalfParameters(ShortParameters):
    """Parameters are stored in float16 beside states of that, as declared, and widened before anything is computed of
    them."""

    dtypes = (torch.float16,)


@control("short-stages-of-float16")
class HalfStages(ShortStages):
    """The stages of short-stages are computed in float16, whose largest number is 65504 and whose smallest 6e-8."""

    dtypes = (torch.float16,)


@control("mixed-in-the-state")
class MixedInTheState(Deviant):
    """Streams are mixed, and the branch's output is added, in the dtype of the state, as declared."""

    dtypes = (torch.bfloat16, torch.float16)
    mixing = "state"

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return self.mixed(x, h_res.to(x.dtype)) + self.spread(y, h_post.to(x.dtype))


@control("widened-at-every-use")
class WidenedAtEveryUse(Deviant):
    """A state is widened anew for the logits of each mapping and for each stream that it is mixed into: autograd rounds
    the gradient of every use to the dtype of the state."""

    dtypes = (torch.bfloat16, torch.float16)

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        check_params(params, x.shape[-2], x.shape[-1], self.dialect)
        params, here = params.widened(), self._for_states(x.dtype)
        pre, post, res = (here.logits(self.widened(x), params)[k] for k in range(3))
        read = here.read_weights(pre, self.widened(x), params)
        return Mappings(read, self.h_post(post), self.h_res(res, x.shape[-2]))

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        mixed = [self.mixed(self.widened(x), h_res)[..., k, :] for k in range(x.shape[-2])]
        return (torch.stack(mixed, -2) + self.spread(self.widened(y), h_post)).to(x.dtype)
