"""A cluster of one node: Slurm's own daemons, from the system or from packages that were unpacked somewhere."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(os.environ.get("SLURM_ROOT", "/"))  # where `dpkg -x` unpacked slurmctld, slurmd, slurm-client and munge
FOLDERS = [ROOT / "usr" / "sbin", ROOT / "usr" / "bin"]
CONFIG = """
ClusterName=tiny
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={home}/munge.sock
SlurmUser=root
SlurmdUser=root
{plugins}
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def program(name):
    """The path of one of Slurm's programs, or None; Debian calls daemons NAME-wlm."""
    found = [folder / one for folder in FOLDERS for one in (name, f"{name}-wlm") if (folder / one).is_file()]
    return found[0] if found else None


def is_here():
    needed = ("munged", "slurmctld", "slurmd", "slurmstepd", "srun", "sbatch", "scontrol", "scancel", "squeue")
    return os.geteuid() == 0 and all(program(name) for name in needed)


def free_ports(count):
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    found = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return found


class Cluster:
    """The daemons, as long as the `with` lasts; `run` calls a command of the client."""

    def __init__(self, home):
        self.home, self.daemons = home, []
        libraries = sorted(
            {path.parent for path in (ROOT / "usr" / "lib").glob("*/*munge.so*")} if Path("/") != ROOT else []
        )
        plugins = [path for path in (ROOT / "usr" / "lib").glob("*/slurm-wlm") if Path("/") != ROOT]
        self.libraries = ":".join(map(str, [*libraries, *plugins]))
        for name in ("state", "spool"):
            (home / name).mkdir()
        settings = {"home": home, "host": socket.gethostname().split(".")[0], "cores": max(2, os.cpu_count() or 2)}
        shown = CONFIG.format(plugins=f"PluginDir={plugins[0]}" if plugins else "", ports=free_ports(2), **settings)
        (home / "slurm.conf").write_text(shown)
        key = home / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)

    def environment(self):
        path = ":".join(map(str, [Path(sys.executable).parent, *FOLDERS, os.environ["PATH"]]))
        more = {"LD_LIBRARY_PATH": self.libraries} if self.libraries else {}
        return os.environ | {"SLURM_CONF": str(self.home / "slurm.conf"), "PATH": path} | more

    def __enter__(self):
        files = [f"--{name}-file={self.home}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        self._start("munged", "--foreground", "--force", f"--socket={self.home}/munge.sock", *files)
        self._until(lambda: (self.home / "munge.sock").exists())
        self._start("slurmctld", "-D", "-c")
        self._start("slurmd", "-D", "-d", program("slurmstepd"))
        self._until(lambda: "idle" in self.run("sinfo", "-h", "-o", "%T", check=False))
        return self

    def __exit__(self, *error):
        self.run("scancel", "--state=RUNNING", "--user=root", check=False)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _start(self, name, *words):
        with (self.home / f"{name}.said").open("wb") as said:
            command = [program(name), *words]
            self.daemons.append(subprocess.Popen(command, env=self.environment(), stdout=said, stderr=said))

    def _until(self, happens, seconds=60):
        end = time.monotonic() + seconds
        while not happens():
            dead = [daemon.args[0] for daemon in self.daemons if daemon.poll() is not None]
            assert not dead, f"ended: {dead}"
            assert time.monotonic() < end, "the cluster does not come up"
            time.sleep(0.2)

    def run(self, name, *words, check=True, **settings):
        """What a command of Slurm's client prints."""
        command = [program(name), *map(str, words)]
        options = {"env": self.environment() | settings, "check": check, "timeout": 300}
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, **options).stdout

    def state(self, job):
        """PENDING, RUNNING, COMPLETING; of an ended job COMPLETED, FAILED, CANCELLED."""
        shown = self.run("scontrol", "show", "job", job, check=False)
        return next((word.removeprefix("JobState=") for word in shown.split() if word.startswith("JobState=")), "GONE")
