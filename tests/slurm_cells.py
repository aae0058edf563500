"""Methods that a job of Slurm has no room or time for."""

import time

import torch

from methods import create_graph_rows

STEP_BYTES = 2**27


def greedy(loss, theta):
    """Takes memory without end, slowly enough for Slurm to count it, which it does every second."""
    held = []
    while True:
        held.append(torch.ones(STEP_BYTES // 8, dtype=torch.float64))
        time.sleep(0.05)


def endless(loss, theta):
    """Takes longer than any job."""
    time.sleep(10_000)
    return create_graph_rows.hessian(loss, theta)
