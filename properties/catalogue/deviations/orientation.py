"""Slips of orientation: which index of the matrix is the output, and which stream is which."""

from __future__ import annotations

from torch import Tensor

from properties.core.deviant import Deviant
from properties.core.slips import MUTATION, Slips, both, constrains, mixes, takes_matrix, turns

SLIPS = Slips()
orientation = SLIPS.step("orientation")
orientation_dialect = SLIPS.dialect("orientation")

orientation_dialect(
    "h-res-transposed",
    "The block applies the transpose of the operator that is declared.",
    "Megatron-LM #4957, fixed in #4839, #4624 (bug 1); NeMo Automodel #2154, #2159 (bug 2); transformers #46172",
    lambda d: d.with_(transposed=not d.transposed),
    mixes,
)


@orientation(
    "emitted-transposed", "two conventions of the same kernel, Liger's and DeepSeek's (transformers #46172)", turns
)
class EmittedTransposed(Deviant):
    """The projection emits the transpose of the matrix, and the block applies it as if it were the matrix."""

    def project(self, logits: Tensor) -> Tensor:
        return super().project(logits).mT


@orientation(
    "stored-transposed", "llm-internal-medicine #39: gains read from rows and columns exchanged (bug 19)", mixes
)
class StoredTransposed(Deviant):
    """The emitted matrix is the transpose of the declared one; the block knows, a reader of it does not."""

    def project(self, logits: Tensor) -> Tensor:
        return super().project(logits).mT

    def operator(self, h_res: Tensor) -> Tensor:
        return super().operator(h_res).mT


@orientation("logits-transposed", MUTATION, takes_matrix)
class LogitsTransposed(Deviant):
    """The logits are transposed before the projection."""

    def project(self, logits: Tensor) -> Tensor:
        return super().project(logits.mT)


@orientation("post-flipped", MUTATION)
class PostFlipped(Deviant):
    """The branch output reaches the streams in reverse order."""

    def spread(self, y: Tensor, h_post: Tensor) -> Tensor:
        return super().spread(y, h_post.flip(-1))


@orientation("pre-flipped", MUTATION)
class PreFlipped(Deviant):
    """h_pre weighs the streams in reverse order."""

    def gathered(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return super().gathered(x, h_pre.flip(-1))


@orientation("streams-rolled", "aiter #2963, a missing offset (bug 39)", mixes)
class StreamsRolled(Deviant):
    """The mixed streams are written one stream too far."""

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        return super().mixed(x, h_res).roll(1, -2)


@orientation(
    "h-res-symmetrised", f"{MUTATION}: what a symmetric test matrix cannot tell apart", both(constrains, turns)
)
class HResSymmetrised(Deviant):
    """The mean of the matrix and its transpose is emitted, still doubly stochastic."""

    def project(self, logits: Tensor) -> Tensor:
        m = super().project(logits)
        return (m + m.mT) / 2
