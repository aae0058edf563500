"""A matrix in a file: what NumPy reads there, what is left after a kill, what is refused, and sums by blocks."""

import errno
import json
import os
import resource
import signal
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import scipy
import torch

from harness.measure import memory
from harness.problems import networks
from methods import batched_rows, create_graph_rows, factored, functional_hvp, vmap_ggn, vmap_hvp
from methods.storage import writing
from methods.storage.files import json_path
from methods.storage.reading import StoredMatrix
from methods.storage.writing import mapped, write_hessian
from tests.oracles import central_differences, distance

SIZE = 23
ROW_MB = SIZE * 8e-6
BLOCK = 4  # rows
BLOCK_MB = BLOCK * ROW_MB
DRAWN = torch.randn(SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
MATRIX = DRAWN + DRAWN.T
PARAMETERS = {"weight": torch.arange(20.0, dtype=torch.float64).view(4, 5), "bias": torch.ones(3, dtype=torch.float64)}
NETWORK = networks.mlp(inputs=4, width=3, outputs=3, batch=12)


def times(matrix: torch.Tensor, vectors: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    return scale * (matrix @ vectors)


def write(path: Path, hvp: Callable = times, matrix: torch.Tensor = MATRIX, parameters=PARAMETERS, **options):
    return write_hessian(path, parameters, hvp, matrix, block_mb=BLOCK_MB, **options)


def edit(path: Path, **changes) -> None:
    place = json_path(path)
    place.write_text(json.dumps(json.loads(place.read_text()) | changes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hessian.npy"


@pytest.fixture
def interrupted(path: Path) -> Path:
    """A file of which two blocks of rows are written."""
    with pytest.raises(KeyboardInterrupt):
        write(path, interrupting(times, 2))
    assert json.loads(json_path(path).read_text())["rows_done"] == 2 * BLOCK
    return path


def interrupting(hvp: Callable, calls: int) -> Callable:
    """The function, interrupted after so many calls, with the same name."""
    left = iter(range(calls))

    def interrupted(*arguments, **options):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return hvp(*arguments, **options)

    interrupted.__qualname__ = hvp.__qualname__
    return interrupted


class Counted:
    """Products of MATRIX that count their vectors, under the name of `times`."""

    __module__ = times.__module__
    __qualname__ = times.__qualname__

    def __init__(self) -> None:
        self.vectors = 0

    def __call__(self, matrix: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        self.vectors += vectors.shape[1]
        return times(matrix, vectors)


def test_numpy_reads_the_matrix_and_json_its_parameters(path: Path) -> None:
    write(path, scale=2.0)
    assert numpy.array_equal(numpy.load(path, mmap_mode="r"), 2 * MATRIX.numpy())
    description = json.loads(json_path(path).read_text())
    assert description["parameters"] == [{"name": "weight", "shape": [4, 5]}, {"name": "bias", "shape": [3]}]
    assert description["shape"] == [SIZE, SIZE]
    assert description["dtype"] == "float64"
    assert description["method"] == f"{__name__}.times"
    assert description["options"] == {"scale": "2.0"}
    assert sorted(file.name for file in path.parent.iterdir()) == ["hessian.npy", "hessian.npy.json"]


@pytest.mark.parametrize(
    ("hvp", "arguments", "options"),
    [
        (vmap_hvp.hvp, (NETWORK.loss, NETWORK.theta), {"composition": "reverse_over_reverse", "chunk_size": 3}),
        (batched_rows.hvp, (NETWORK.loss, NETWORK.theta), {}),
        (create_graph_rows.hvp, (NETWORK.loss, NETWORK.theta), {}),
        (functional_hvp.hvp, (NETWORK.loss, NETWORK.theta), {}),
        (factored.hvp, (NETWORK.model, NETWORK.criterion, NETWORK.inputs, NETWORK.targets), {}),
    ],
)
def test_the_products_of_every_method_give_the_hessian(path: Path, hvp, arguments, options) -> None:
    write_hessian(path, NETWORK.model, hvp, *arguments, block_mb=1e-3, **options)
    assert distance(torch.from_numpy(numpy.load(path)), central_differences(NETWORK)) < 1e-8
    named = {part["name"]: part["shape"] for part in json.loads(json_path(path).read_text())["parameters"]}
    assert named == {name: list(p.shape) for name, p in NETWORK.model.named_parameters()}


@pytest.mark.parametrize("method", [vmap_hvp, batched_rows, create_graph_rows])
def test_rows_are_written_into_a_mapped_file(path: Path, method) -> None:
    with mapped(path, NETWORK.model, method.__name__) as out:
        assert method.hessian(NETWORK.loss, NETWORK.theta, out=out) is out
    assert numpy.array_equal(numpy.load(path), method.hessian(NETWORK.loss, NETWORK.theta).numpy())
    assert StoredMatrix(path).description.method == method.__name__


@pytest.mark.parametrize("quantity", [factored.hessian, vmap_ggn.ggn])
def test_a_method_of_networks_writes_into_a_mapped_file(path: Path, quantity) -> None:
    network = NETWORK.model, NETWORK.criterion, NETWORK.inputs, NETWORK.targets
    with mapped(path, NETWORK.model, "a method", memory_mb=1) as out:
        quantity(*network, out=out)
    assert numpy.array_equal(numpy.load(path), quantity(*network).numpy())
    assert StoredMatrix(path).description.options == {"memory_mb": "1"}


@pytest.mark.parametrize("out", [torch.empty(5, 5).double(), torch.empty(NETWORK.theta.numel(), NETWORK.theta.numel())])
def test_an_out_that_is_not_as_the_matrix_is_refused(out: torch.Tensor) -> None:
    for method in (vmap_hvp, batched_rows, create_graph_rows):
        with pytest.raises(ValueError, match=r"out is .*; the matrix is \(27, 27\) torch.float64 cpu"):
            method.hessian(NETWORK.loss, NETWORK.theta, out=out)


def test_a_mapped_file_is_whole_only_once_its_method_has_ended(path: Path) -> None:
    def failing() -> None:
        with mapped(path, PARAMETERS, "any") as out:
            out[:] = MATRIX
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        failing()
    with pytest.raises(ValueError, match="not whole: 0 of 23 rows"):
        StoredMatrix(path)
    with mapped(path, PARAMETERS, "any") as out:
        assert not out.nan_to_num().any(), "it begins anew"
        out[:] = MATRIX
    assert numpy.array_equal(numpy.load(path), MATRIX.numpy())
    with pytest.raises(FileExistsError, match="23 of 23 rows"), mapped(path, PARAMETERS, "any"):
        pass


def killed_at(event: int, path: Path) -> bool:
    """Write in a process of its own that kills itself before one of its products, flushes or renamings.

    False if it had ended before.
    """
    pid = os.fork()
    if pid == 0:
        left = iter(range(event))

        def killing(function: Callable) -> Callable:
            def called(*arguments, **options):
                if next(left, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **options)

            called.__qualname__ = times.__qualname__
            return called

        try:
            os.fsync = killing(os.fsync)
            os.posix_fallocate = killing(os.posix_fallocate)
            Path.replace = killing(Path.replace)
            write(path, killing(times))
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def test_a_run_that_is_killed_at_any_point_loses_at_most_a_block(tmp_path: Path) -> None:
    blocks = -(-SIZE // BLOCK)
    events = 0
    while killed_at(events, path := tmp_path / f"{events}.npy"):
        description = json_path(path)
        done = json.loads(description.read_text())["rows_done"] if description.exists() else 0
        assert done == min(BLOCK * (max(0, events - 4) // 5), SIZE), "5 events create the file, and 5 write a block"
        products = Counted()
        write(path, products, resume=True)
        assert products.vectors == SIZE - done + (done > 0), "the rest, and a vector that checks what is done"
        assert numpy.array_equal(numpy.load(path), MATRIX.numpy())
        events += 1
    assert events == 5 + 5 * blocks


def test_a_finished_file_is_checked_and_not_written_again(path: Path) -> None:
    write(path)
    products = Counted()
    write(path, products, resume=True)
    assert products.vectors == 1


def test_rows_that_are_written_are_never_overwritten_unasked(interrupted: Path) -> None:
    with pytest.raises(FileExistsError, match=r"8 of 23 rows: remove it .* or go on with .* resume=True"):
        write(interrupted)
    json_path(interrupted).unlink()
    for resume in (False, True):
        with pytest.raises(FileExistsError, match=r"without hessian.npy.json"):
            write(interrupted, resume=resume)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parameters": {"kernel": PARAMETERS["weight"], "bias": PARAMETERS["bias"]}}, 'parameters .*"kernel"'),
        ({"parameters": {name: 1.01 * p for name, p in PARAMETERS.items()}}, "values_sha256"),
        ({"parameters": {name: p.float() for name, p in PARAMETERS.items()}}, "dtype .*float32"),
        ({"hvp": write}, "method .*write"),
        ({"scale": 1.0}, r'options \{\} instead of \{"scale": "1.0"\}'),
        ({"matrix": MATRIX * (1 + 1e-9)}, r"differ by \d\.\de-\d\d"),
        ({"matrix": MATRIX + torch.eye(SIZE).double()}, "the data, the loss or the code"),
    ],
)
def test_another_run_is_not_resumed(interrupted: Path, changes, words: str) -> None:
    before = numpy.load(interrupted)
    with pytest.raises(ValueError, match=f"cannot be resumed.*{words}"):
        write(interrupted, resume=True, **changes)
    assert numpy.array_equal(numpy.load(interrupted), before)


def test_damaged_rows_are_not_resumed(interrupted: Path) -> None:
    numpy.load(interrupted, mmap_mode="r+")[3, 5] += 0.1
    with pytest.raises(ValueError, match="or the file is damaged"):
        write(interrupted, resume=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"shape": [23, 23], "dty', "Unterminated string"),
        ("[]", "must be a mapping"),
        ('{"shape": [23, 23]}', "missing 5 required"),
    ],
)
def test_a_torn_description_is_reported(interrupted: Path, text: str, words: str) -> None:
    json_path(interrupted).write_text(text)
    for call in (StoredMatrix, lambda path: write(path, resume=True)):
        with pytest.raises(ValueError, match=f"does not describe a matrix .*{words}.*: restore it from a copy"):
            call(interrupted)


@pytest.mark.parametrize(
    "changes",
    [
        {"rows_done": 24},
        {"rows_done": 8.0},
        {"shape": [23, 2]},
        {"dtype": "int8"},
        {"version": 2},
        {"options": None},
        {"parameters": 3},
        {"parameters": [{"name": "weight", "shape": [4, 5]}]},
        {"parameters": [{"name": "weight"}]},
    ],
)
def test_an_impossible_description_is_reported(interrupted: Path, changes) -> None:
    edit(interrupted, **changes)
    with pytest.raises(ValueError, match=r"does not describe a matrix .*: restore it from a copy"):
        StoredMatrix(interrupted)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (numpy.zeros((SIZE, SIZE), "f4"), r"holds \[23, 23\] float32.*says \[23, 23\] float64"),
        (numpy.zeros((SIZE, 5)), r"holds \[23, 5\]"),
        (numpy.asfortranarray(numpy.zeros((SIZE, SIZE))), "float64 by columns"),
        (numpy.zeros((SIZE, SIZE), ">f8"), r"holds \[23, 23\] >f8"),
    ],
)
def test_another_array_is_refused(interrupted: Path, array: numpy.ndarray, words: str) -> None:
    numpy.save(interrupted, array)
    with pytest.raises(ValueError, match=f"{words}.*: another file took its place"):
        write(interrupted, resume=True)
    edit(interrupted, rows_done=SIZE)
    with pytest.raises(ValueError, match=words):
        StoredMatrix(interrupted)


def test_a_file_that_is_cut_short_or_missing_or_no_array_is_refused(path: Path) -> None:
    write(path)
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(ValueError, match="instead of 4,360: it is not as it was written"):
        StoredMatrix(path)
    path.write_bytes(b"no array at all")
    with pytest.raises(ValueError, match="no file in NumPy's format"):
        StoredMatrix(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"hessian.npy is not there, but hessian.npy.json"):
        write(path, resume=True)
    json_path(path).unlink()
    with pytest.raises(FileNotFoundError, match=r"hessian.npy.json is not there"):
        StoredMatrix(path)


def test_a_run_that_another_one_writes_beside_is_refused(path: Path) -> None:
    refused = pytest.raises(FileExistsError, match=r"another process writes .*hessian.npy now")

    def products(matrix: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        with refused:
            write(path)
        return times(matrix, vectors)

    write(path, products)
    path.unlink()
    json_path(path).unlink()
    with mapped(path, PARAMETERS, "any") as out:
        out[:] = MATRIX
        with refused:
            write(path)
    assert numpy.array_equal(numpy.load(path), MATRIX.numpy())


@pytest.mark.parametrize("own", [numpy.ones((23, 23), dtype=numpy.float32), numpy.ones(3), b"text"])
def test_an_own_file_beside_a_description_that_was_left_is_kept(path: Path, own) -> None:
    with pytest.raises(RuntimeError), mapped(path, PARAMETERS, "any"):
        raise RuntimeError
    if isinstance(own, bytes):
        path.write_bytes(own)
    else:
        numpy.save(path, own)
    kept = path.read_bytes()
    for resume in (False, True):
        with pytest.raises(FileExistsError, match=r"remove it and hessian.npy.json, or name another file"):
            write(path, resume=resume)
    assert path.read_bytes() == kept


@pytest.mark.parametrize("entries", [{}, {"rows": slice(0, 22)}, {"value": torch.inf}])
def test_a_mapped_matrix_that_is_not_written_everywhere_is_not_whole(path: Path, entries) -> None:
    def incomplete() -> None:
        with mapped(path, PARAMETERS, "any") as out:
            rows = entries.get("rows", slice(0, 23 if "value" in entries else 0))
            out[rows] = MATRIX[rows]
            out[22, 3] = entries.get("value", 1.0)

    with pytest.raises(ValueError, match=r"has entries that are not finite: .* whether the method was given `out`"):
        incomplete()
    with pytest.raises(ValueError, match="not whole: 0 of 23 rows"):
        StoredMatrix(path)


def test_small_rows_that_are_not_of_this_run_are_not_resumed(path: Path) -> None:
    """Those of the first parameter are a millionth of all, and a run with other data changes them alone."""
    scale = torch.where(torch.arange(SIZE) < 20, 1e-6, 1.0).double()
    matrix = scale[:, None] * MATRIX * scale
    other = matrix.clone()
    other[:4, :4] *= 1.001
    with pytest.raises(KeyboardInterrupt):
        write(path, interrupting(times, 5), matrix)
    with pytest.raises(ValueError, match=r"its finished rows of weight times a random vector differ by"):
        write(path, matrix=other, resume=True)
    write(path, matrix=matrix, resume=True)
    assert numpy.array_equal(numpy.load(path), matrix.numpy())


def test_products_at_other_values_than_the_parameters_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="hvp is given a theta with other values than `parameters`"):
        write_hessian(path, NETWORK.model, vmap_hvp.hvp, NETWORK.loss, NETWORK.theta + 1)
    other = networks.mlp(inputs=4, width=3, outputs=3, batch=12, seed=1)
    assert other.model is not None
    with pytest.raises(ValueError, match="hvp is given a model with other values than `parameters`"):
        write_hessian(
            path, other.model, factored.hvp, NETWORK.model, NETWORK.criterion, NETWORK.inputs, NETWORK.targets
        )
    assert not path.exists()


def test_a_run_goes_on_with_smaller_chunks(path: Path) -> None:
    loss, theta = NETWORK.loss, NETWORK.theta
    interrupted = interrupting(vmap_hvp.hvp, 2)
    interrupted.__module__ = vmap_hvp.hvp.__module__
    with pytest.raises(KeyboardInterrupt):
        write_hessian(path, NETWORK.model, interrupted, loss, theta, block_mb=1e-3, chunk_size=4)
    write_hessian(path, NETWORK.model, vmap_hvp.hvp, loss, theta, resume=True, chunk_size=2)
    assert distance(torch.from_numpy(numpy.load(path)), vmap_hvp.hessian(loss, theta)) < 1e-14


def test_a_file_that_is_too_large_is_refused_before_anything_is_computed(path: Path) -> None:
    """The limit of a process on the size of its files stands for a full disk."""
    products = Counted()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE * SIZE * 8, hard))
    try:
        with pytest.raises(
            OSError, match=r"nothing is written, and the matrix needs 4.23e-06 GB: name another place"
        ) as raised:
            write(path, products)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.errno == errno.EFBIG
    assert raised.value.filename == str(path)
    assert products.vectors == 0
    assert not path.exists()
    write(path, products)
    assert numpy.array_equal(numpy.load(path), MATRIX.numpy())


def test_a_disk_that_fails_leaves_the_finished_rows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter(range(7))

    def full(descriptor: int) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(writing.os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device; 4 of 23 rows are kept, .*: free space there"):
            write(path)
    write(path, resume=True)
    assert numpy.array_equal(numpy.load(path), MATRIX.numpy())


@pytest.mark.parametrize(
    ("hvp", "words"),
    [
        (lambda matrix, vectors: (matrix @ vectors).float(), "gave .*float32 for vectors .*float64"),
        (lambda matrix, vectors: vectors[:-1], r"gave \(22, 4\)"),
        (lambda matrix, vectors: vectors / (vectors[21] == 0)[None], "row 21, of parameter bias, has entries that"),
    ],
)
def test_products_that_cannot_be_rows_are_refused(path: Path, hvp, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        write(path, hvp)


def test_parameters_and_blocks_that_cannot_be_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="tensors by name; found list"):
        write(path, parameters=[torch.ones(3)])
    with pytest.raises(ValueError, match=r"parameters are bfloat16.*convert"):
        write(path, parameters={"a": torch.ones(3).bfloat16()})
    with pytest.raises(ValueError, match="block_mb must be a number above 0; found 0"):
        write_hessian(path, PARAMETERS, times, MATRIX, block_mb=0)
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rows", [0.1, 1, 4, 22, 100])
def test_what_is_computed_by_blocks_is_that_of_the_matrix(path: Path, dtype: torch.dtype, rows: float) -> None:
    matrix = MATRIX.to(dtype, copy=True)
    matrix[3, 20] += 0.5
    write(path, matrix=matrix.T.contiguous(), parameters={name: p.to(dtype) for name, p in PARAMETERS.items()})
    stored = StoredMatrix(path, block_mb=rows * SIZE * matrix.element_size() / 1e6)
    exact, rounding = matrix.double().numpy(), 30 * torch.finfo(dtype).eps
    vectors = numpy.random.default_rng(0).standard_normal((SIZE, 2)).astype(stored.dtype)
    assert stored.shape == (SIZE, SIZE)
    assert stored.trace() == pytest.approx(exact.trace(), rel=rounding)
    assert stored.norm() == pytest.approx(numpy.linalg.norm(exact), rel=1e-14)
    assert stored.asymmetry() == abs(matrix - matrix.T).max()
    assert numpy.array_equal(stored.diagonal(), matrix.diagonal())
    assert numpy.allclose(stored.matvec(vectors), exact @ vectors, rtol=rounding, atol=rounding)
    assert numpy.allclose(stored.matvec(vectors[:, 0]), exact @ vectors[:, 0], rtol=rounding, atol=rounding)
    assert max(len(block) for _, block in stored.blocks()) == min(max(1, int(rows)), SIZE)
    with pytest.raises(ValueError, match=r"vectors are \(5, 2\), and the matrix is \(23, 23\)"):
        stored.matvec(vectors[:5])


def test_memory_is_a_block_to_read_and_four_to_write(path: Path) -> None:
    size, rows = 1000, 50
    block_bytes = rows * size * 8
    matrix = torch.eye(size, dtype=torch.float64)
    options = {"block_mb": block_bytes / 1e6}
    parameters = {"theta": matrix[0]}
    peak = memory.tensor_peak(lambda: write_hessian(path, parameters, times, matrix, **options), torch.device("cpu"))
    assert 2 * block_bytes <= peak["tensor_peak_bytes"] <= 4.2 * block_bytes
    stored = StoredMatrix(path, **options)
    ones = numpy.ones(size)
    for call in (stored.norm, stored.asymmetry, lambda: stored.matvec(ones)):
        tracemalloc.start()
        call()
        _, held = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert 0.9 * block_bytes <= held <= 1.3 * block_bytes


def test_a_file_that_is_cut_short_while_it_is_read_is_reported(path: Path) -> None:
    stored = write(path)
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(OSError, match="cut short while it was read"):
        stored.asymmetry()
    blocks = write(other := path.with_name("other.npy")).blocks()
    next(blocks)
    os.truncate(other, other.stat().st_size - 8)
    with pytest.raises(OSError, match="cut short while it was read"):
        list(blocks)


def test_eigenvalues_are_those_of_the_whole_matrix(path: Path) -> None:
    stored = write(path)
    values, vectors = scipy.sparse.linalg.eigsh(stored, k=5)
    exact = numpy.linalg.eigvalsh(MATRIX.numpy())
    largest = numpy.sort(exact[numpy.argsort(-abs(exact))[:5]])
    assert values == pytest.approx(largest, rel=1e-12)
    assert numpy.allclose(MATRIX.numpy() @ vectors, vectors * values)
