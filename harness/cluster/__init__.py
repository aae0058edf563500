"""Sweeps on a cluster of Slurm: benchmark cells in packs, each pack in a job.

`options` are the keys of the configuration. `packs` makes packs, and `scheduler` submits them and asks what became of
the jobs. `job` runs in a job, `place` says where it is. `waiting` follows the jobs from where the sweep was started,
and `ended` records what ended with its job.

    RUN/slurm/001/            one array of jobs
    RUN/slurm/001/ids.json    the job of each pack, by Slurm's number
    RUN/slurm/001/0.json      a pack
    RUN/slurm/001/0.cells     its journal: which cells began, and which are recorded
    RUN/slurm/001/submitit/   submitit's files, and what the jobs printed
"""
