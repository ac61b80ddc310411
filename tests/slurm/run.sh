#!/usr/bin/env bash
# A table through a real SLURM of two nodes on this machine: install, start, run, compare with the local executor, stop.
# Opt-in:
#
#   sudo tests/slurm/run.sh [TABLE OPTIONS…]      (default: table4 --rows simsiam --columns knn200 --trials 1)
#   sudo NODES=2 tests/slurm/run.sh …             (every run over both nodes, one process each)
#   sudo LOCAL=outputs/all tests/slurm/run.sh table4 table5      (compares with a finished local run)
#
# Needs Debian or Ubuntu and root: SLURM's daemons start jobs as other users. Everything it writes lies in one folder,
# and the daemons are stopped at the end. Without systemd and without control of cgroups, hence the plain plugins below.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
nodes=${NODES:-1}
work=$(mktemp -d "${TMPDIR:-/tmp}/slurm-test.XXXXXX")
chmod 755 "$work"
arguments=("$@")
[ ${#arguments[@]} -gt 0 ] || arguments=(table4 --rows simsiam --columns knn200 --trials 1)

command -v slurmctld slurmd munged sbatch >/dev/null || {
    apt-get update -qq
    apt-get install -y -qq slurmctld slurmd munge slurm-client
}

stop() {
    for daemon in slurmd1 slurmd2 slurmctld; do
        [ -f "$work/$daemon.pid" ] && kill "$(cat "$work/$daemon.pid")" 2>/dev/null || true
    done
    [ -z "${linked:-}" ] || rm -f /etc/slurm/slurm.conf
    [ -n "${munged_started:-}" ] && [ -f /run/munge/munged.pid ] && kill "$(cat /run/munge/munged.pid)" 2>/dev/null || true
}
trap stop EXIT

host=$(hostname -s)
# Two daemons with names and ports of their own stand for two machines; both answer at this one's address.
memory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 * 4 / 10))
for name in node1 node2; do
    grep -q "[[:space:]]$name\$" /etc/hosts || echo "127.0.0.1 $name" >> /etc/hosts
done
cat > "$work/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool/%n
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/%n.log
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=1 RealMemory=$memory
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=1 RealMemory=$memory
PartitionName=test Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
CONF
mkdir -p "$work/state" "$work/spool/node1" "$work/spool/node2"
export SLURM_CONF="$work/slurm.conf"
# Inside a job srun no longer has that variable.
[ -e /etc/slurm/slurm.conf ] || { mkdir -p /etc/slurm; ln -s "$work/slurm.conf" /etc/slurm/slurm.conf; linked=yes; }

if ! munge -n >/dev/null 2>&1 || ! munge -n | unmunge >/dev/null 2>&1; then
    [ -f /etc/munge/munge.key ] || { head -c 1024 /dev/urandom > /etc/munge/munge.key; chown munge /etc/munge/munge.key; chmod 400 /etc/munge/munge.key; }
    install -d -o munge -m 755 /run/munge
    su -s /bin/sh munge -c /usr/sbin/munged
    munged_started=yes
fi
slurmctld -f "$SLURM_CONF"
for number in 1 2; do
    slurmd -f "$SLURM_CONF" -N "node$number"
    # Its file has the node's name; `stop` looks for the daemon's.
    ln -sf "$work/node$number.pid" "$work/slurmd$number.pid"
done
for _ in $(seq 30); do srun -N2 -n2 true 2>/dev/null && break; sleep 1; done
srun -N2 -n2 printenv SLURMD_NODENAME

common=(run "${arguments[@]}" --scale mini)
"$python" -m benchmarks "${common[@]}" --output "$work/cluster" --nodes "$nodes" --jobs 2 --executor slurm -- --mem=1500M --time=60
local=${LOCAL:-$work/local}
# One node: the local executor. Several: the same commands with as many processes on this machine, which take the same
# sums in the same order; either way every metric has to be equal, digit for digit.
[ -n "${LOCAL:-}" ] || [ "$nodes" -gt 1 ] || "$python" -m benchmarks "${common[@]}" --output "$local"
"$python" - "$work/cluster" "$local" "$nodes" <<'PYTHON'
import subprocess
import sys
from pathlib import Path

from benchmarks.workflow.plan import read_plan
from runs.record import read_record

cluster, local, nodes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
plan = read_plan(cluster)
if nodes > 1:
    for name in plan.order():
        run = plan.runs[name]
        (local / name).mkdir(parents=True)
        processes = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={run.processes}"]
        start = processes if run.processes > 1 else []
        words = [w.replace(str(cluster), str(local)) for w in run.command[run.command.index("-m") :]]
        subprocess.run([sys.executable, *start, *words], check=True)
done = [name for name in plan.order() if (cluster / name / "result.json").exists()]
differ = [name for name in done if read_record(cluster / name).metrics != read_record(local / name).metrics]
if not done or differ:
    sys.exit(f"{len(differ)} of {len(done)} records differ: {differ}")
print(f"{len(done)} records through SLURM on {nodes} node(s), each with the metrics of the local run")
PYTHON
echo "kept: $work"
