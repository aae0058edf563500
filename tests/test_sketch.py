"""The numbers of a result estimate distances between results."""

import pytest
import torch

from harness import record
from harness.truth import sketch


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("numbers", [sketch.sketch, sketch.bilinear])
def test_the_squares_of_differences_add_up_to_the_frobenius_distance(numbers) -> None:
    ratios = []
    for seed in range(200):
        a, b = draw(30, 30, seed=seed), draw(30, 30, seed=seed + 1000)
        sketched = torch.tensor(numbers([a])) - torch.tensor(numbers([b]))
        ratios.append(float(sketched.double().square().sum() / (a - b).square().sum()))
    mean = sum(ratios) / len(ratios)
    assert abs(mean - 1) < 0.1, "one seed for all: the mean is over results, not over sketches"


def test_a_vector_and_several_tensors_are_sketched() -> None:
    vector, blocks = draw(50), [draw(4, 4), draw(3, 3, seed=1)]
    assert len(sketch.sketch([vector])) == sketch.SKETCHES == record.SKETCH
    assert sketch.sketch(blocks) == sketch.sketch([block.clone() for block in blocks])
    assert sketch.sketch(blocks) != sketch.sketch([blocks[0], -blocks[1]])


def test_bilinear_forms_of_any_dtype_and_shape() -> None:
    matrix, vector = draw(20, 7), draw(50)
    exact = sketch.bilinear([matrix, vector])
    assert len(exact) == sketch.SKETCHES
    for dtype, rel in ((torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 1e-1)):
        assert sketch.bilinear([matrix.to(dtype), vector.to(dtype)]) == pytest.approx(exact, abs=rel * 10)
    assert sketch.bilinear([2 * matrix, 2 * vector]) == pytest.approx([2 * number for number in exact])
    assert len(sketch.bilinear([matrix], 1)) == 1


def test_done_in_blocks_it_is_the_same(monkeypatch) -> None:
    tensors = [draw(70, 5), draw(99, seed=1)]
    whole = torch.tensor(sketch.sketch(tensors))
    monkeypatch.setattr(sketch, "ENTRIES", 16)
    torch.testing.assert_close(torch.tensor(sketch.sketch(tensors)), whole)
    halves = [tensor.half() for tensor in tensors]
    blocks = sketch.bilinear(halves)
    monkeypatch.undo()
    assert blocks == pytest.approx(sketch.bilinear(halves), rel=1e-4, abs=1e-4)
