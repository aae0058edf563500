"""Records with planted growth, for the tests of what a report tells of it."""

import numpy

from harness import record
from tests.test_report import cell

SIZES = (100, 200, 400, 800, 1600)


def loaded(tmp_path, records):
    for number, entry in enumerate(records):
        record.write(entry, tmp_path / str(number) / "record.json")
    return record.load(tmp_path)


def grown(method, exponent, scale=1e-6, noise=0.0, seed=0, sizes=SIZES, rounds=1, samples=1, **changes):
    """Records of one method whose time and memory grow as P to the exponent, with log-normal noise a process."""
    generator = numpy.random.default_rng(seed)
    return [
        cell(
            method,
            params // 16,
            params=params,
            round=number,
            times_s=[scale * params**exponent * generator.lognormal(sigma=noise)] * samples,
            **{"tensor_peak_bytes": int(8 * params**exponent), "process_peak_bytes": None} | changes,
        )
        for params in sizes
        for number in range(rounds)
    ]
