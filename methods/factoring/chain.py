"""The derivatives between calls of affine maps, chained backwards over the segments of a network.

Let y be what passes the cut after a segment, and K = d^2 loss / dy de_k and d a_k / dy for the calls k behind it. For a
shift e_l within the segment, and e_l' too,

    M_lk = (dy/de_l)^T K_yk,    J_lk = d a_k / dy dy/de_l
    M_ll' = (d^2 <g_y, y> / de_l de_l') + (dy/de_l)^T M_yy (dy/de_l')

where the first term and dy/de_l are the segment's own derivatives. The same holds for the tensors x that pass the cut
before it, which gives K_x for the segment before. All products are those of small matrices, one for each sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from methods.factoring.certificate import Certificate
from methods.factoring.numerics import slices
from methods.factoring.pairs import Pair, fitting, pairs_behind_cut
from methods.factoring.scratch import Scratch
from methods.factoring.segments import Segment
from methods.factoring.shifts import check
from methods.factoring.stages import Behind, Stage
from methods.factoring.uses import Use


class Chain:
    """The segments of a network. Their own derivatives are computed first, and then multiplied from the last one on."""

    def __init__(self, uses: Sequence[Use], segments: Sequence[Segment], memory: float) -> None:
        self._uses, self._memory = uses, memory
        scratch = Scratch()
        self._stages = [Stage(segment, uses, memory, scratch) for segment in segments]

    def pairs(self) -> Iterator[Pair]:
        """The derivatives between every two calls. Raises Refused where torch has no rule for an operation."""
        own = None
        for at in reversed(range(len(self._stages))):
            stage = self._stages[at]
            yield from stage.pairs(own)
            if not stage.segment.before:
                return
            own, behind = stage.along_cut()
            stage.release()
            if not behind.columns:
                continue
            yield from self._pairs_of_cut(stage.segment, behind)
            for earlier in reversed(self._stages[:at]):
                yield from earlier.pairs_behind(behind)
                if earlier.segment.before:
                    behind = earlier.back(behind)
                    yield from self._pairs_of_cut(earlier.segment, behind)

    def _pairs_of_cut(self, segment: Segment, behind: Behind) -> Iterator[Pair]:
        """The pairs of the calls whose outputs pass the cut before a segment with calls behind it."""
        for place, matrix in zip(segment.before, behind.matrix.split(segment.widths, dim=1), strict=True):
            if place.index is not None:
                along = matrix.unflatten(1, place.gradient.shape[1:])
                for outputs in slices(0, along.shape[2], fitting(place, self._uses, self._memory)):
                    shifts, inputs = behind.split(along[:, :, outputs])
                    yield from pairs_behind_cut(self._uses, place, outputs, shifts, inputs)

    def mixed(self, certificate: Certificate, precision: torch.dtype) -> Iterator[Use]:
        """The calls whose samples depend on each other. Raises Refused as `check`."""
        found = [(place, one.found()) for stage in self._stages for place, one in stage.directions.items()]
        flags = check([numbers for _, numbers in found], certificate, precision)
        mixed = [place for flag, (place, _) in zip(flags, found, strict=True) if flag]
        for at, stage in enumerate(self._stages):
            inside = [place.index for place in stage.segment.inside if place in mixed]
            earlier = [place.index for before in self._stages[:at] for place in before.segment.calls]
            mixes = any(place in mixed for place in stage.segment.before)
            yield from (self._uses[call] for call in inside + (earlier if mixes else []) if call is not None)
