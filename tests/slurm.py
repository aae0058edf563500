"""A real Slurm of one node for tests, with accounting: its daemons and their database on this machine's loopback.

It needs root and the programs of Debian's packages slurmctld, slurmd, slurm-client, munge, slurmdbd,
slurm-wlm-mysql-plugin and mariadb-server.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = (
    *("munged", "mariadb-install-db", "mariadbd", "mariadb", "mariadb-admin"),
    *("slurmdbd", "slurmctld", "slurmd", "sbatch", "squeue", "sacct", "sacctmgr", "scontrol", "sinfo", "scancel"),
)
WAIT_S = 30.0  # for a daemon to answer
USER_AND_SYSTEM = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"

ACCOUNTING = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge/sock
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={dbd}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
LogFile={folder}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct_db
"""
# The node has four cores, whatever the machine has, so that four jobs may run at once. Memory is enforced by Slurm's
# own count of it, once a second: that needs no cgroups.
CLUSTER = """
ClusterName=ci
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/sock
CredType=cred/munge
SlurmctldPort={controller}
SlurmdPort={node}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd}
AccountingStoragePass={folder}/munge/sock
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
MpiDefault=none
ReturnToService=2
InactiveLimit=0
KillWait=2
MinJobAge=300
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory={memory_mb} State=UNKNOWN
PartitionName=ci Nodes={host} Default=YES MaxTime=60 State=UP
"""


def missing() -> str | None:
    """Why no Slurm can be started here, if none can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "Slurm's daemons are started as root on Linux only"
    absent = [name for name in PROGRAMS if shutil.which(name, path=USER_AND_SYSTEM) is None]
    return f"not installed: {', '.join(absent)} (see tests/slurm.py)" if absent else None


@contextlib.contextmanager
def running(folder: Path) -> Iterator[dict[str, str]]:
    """Start a Slurm that keeps its files in a folder, and end it on leaving; the environment with which it is used.

    Its partition is `ci`. Raises RuntimeError, with the ends of the logs, where it does not come up.
    """
    for name in ("munge", "state", "spool", "log", "db"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    env = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": USER_AND_SYSTEM}
    with contextlib.ExitStack() as daemons:
        _start(folder, env, daemons)
        daemons.callback(_end_jobs, env)
        yield env


def _start(folder: Path, env: dict[str, str], daemons: contextlib.ExitStack) -> None:
    def daemon(pid_file: str, *command: str) -> None:
        daemons.callback(_end, folder / pid_file)
        _run(*command, env=env)

    ports = _free_ports(4)
    values = {
        "folder": folder,
        "host": socket.gethostname().partition(".")[0],
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 - 512,
        "password": secrets.token_hex(12),
    } | dict(zip(("controller", "node", "dbd", "database"), ports, strict=True))
    _write(folder / "munge" / "key", secrets.token_bytes(1024), 0o400)
    _write(folder / "slurmdbd.conf", ACCOUNTING.format(**values).encode(), 0o600)
    _write(folder / "slurm.conf", CLUSTER.format(**values).encode(), 0o644)
    munge = {name: f"--{name}-file={folder}/munge/{name}" for name in ("key", "seed")}
    pid, log = f"--pid-file={folder}/munge/munged.pid", f"--log-file={folder}/log/munged.log"
    daemon("munge/munged.pid", "munged", "--force", *munge.values(), f"--socket={folder}/munge/sock", pid, log)
    daemons.callback(_end_child, _start_database(folder, env, str(values["database"]), str(values["password"])))
    daemon("slurmdbd.pid", "slurmdbd")
    _wait("slurmdbd", folder, lambda: _succeeds("sacctmgr", "-n", "show", "cluster", env=env))
    _succeeds("sacctmgr", "-i", "add", "cluster", "ci", env=env)
    daemon("slurmctld.pid", "slurmctld", "-f", env["SLURM_CONF"])
    daemon("slurmd.pid", "slurmd", "-f", env["SLURM_CONF"])
    _wait("the node", folder, lambda: _printed("sinfo", "-h", "-o", "%T", env=env) == "idle")


def _start_database(folder: Path, env: dict[str, str], port: str, password: str) -> subprocess.Popen[bytes]:
    access = "--auth-root-authentication-method=socket"
    options = ["--no-defaults", "--user=root", f"--datadir={folder}/db"]
    _run("mariadb-install-db", *options, access, "--skip-test-db", env=env)
    sock = f"{folder}/db.sock"
    daemon = [*options, f"--socket={sock}", f"--pid-file={folder}/db.pid", "--bind-address=127.0.0.1", f"--port={port}"]
    with (folder / "log" / "mariadb.log").open("wb") as log:
        database = subprocess.Popen(
            ["mariadbd", *daemon, "--skip-name-resolve", "--innodb-buffer-pool-size=64M"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env,
            start_new_session=True,
        )
    access = f"CREATE USER slurm@127.0.0.1 IDENTIFIED BY '{password}'; GRANT ALL ON slurm_acct_db.* TO slurm@127.0.0.1"
    try:
        _wait("mariadbd", folder, lambda: _succeeds("mariadb-admin", "--no-defaults", "-S", sock, "ping", env=env))
        _run("mariadb", "--no-defaults", "-S", sock, "-e", f"CREATE DATABASE slurm_acct_db; {access}", env=env)
    except BaseException:
        _end_child(database)
        raise
    return database


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; another program might still take one meanwhile."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for own in sockets:
            own.bind(("127.0.0.1", 0))
        return [own.getsockname()[1] for own in sockets]


def _write(path: Path, content: bytes, mode: int) -> None:
    path.write_bytes(content)
    path.chmod(mode)


def _run(*command: str, env: dict[str, str]) -> None:
    """Run a program to its end, or until it is a daemon; raises RuntimeError where it fails."""
    done = subprocess.run(["timeout", "60", *command], stdin=subprocess.DEVNULL, env=env, **_into_nothing())
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with status {done.returncode}")


def _into_nothing() -> dict[str, int]:
    """Where a daemon prints to: it would hold a pipe open for ever."""
    return {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def _succeeds(*command: str, env: dict[str, str]) -> bool:
    done = subprocess.run(["timeout", "20", *command], stdin=subprocess.DEVNULL, env=env, **_into_nothing())
    return done.returncode == 0


def _printed(*command: str, env: dict[str, str]) -> str:
    done = subprocess.run(["timeout", "20", *command], capture_output=True, text=True, env=env)
    return done.stdout.strip()


def _wait(name: str, folder: Path, is_up: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_up():
        if time.monotonic() > deadline:
            logs = "\n".join(f"{log.name}: {log.read_text(errors='replace')[-1000:]}" for log in folder.glob("log/*"))
            raise RuntimeError(f"{name} did not come up within {WAIT_S:g} s\n{logs}")
        time.sleep(0.1)


def _end(pid_file: Path) -> None:
    """Kill a daemon by the number in its file, if it runs: nobody needs what it would save."""
    with contextlib.suppress(OSError, ValueError):
        os.kill(int(pid_file.read_text()), signal.SIGKILL)


def _end_child(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _end_jobs(env: dict[str, str]) -> None:
    """End all jobs of this Slurm, whose processes would outlive its daemons."""
    _succeeds("scancel", "--full", "--user=root", env=env)
    _succeeds("scancel", "--signal=KILL", "--full", "--user=root", env=env)
    with contextlib.suppress(RuntimeError):
        _wait("the end of all jobs", Path(), lambda: not _printed("squeue", "-h", env=env))
