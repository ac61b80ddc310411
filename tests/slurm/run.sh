#!/usr/bin/env bash
# A table through a real SLURM of two nodes on this machine: install, start, run, compare with the local executor, stop.
# Opt-in:
#
#   sudo tests/slurm/run.sh [TABLE OPTIONS…]      (default: table4 --rows simsiam --columns knn200 --trials 1)
#   sudo NODES=2 tests/slurm/run.sh …             (every run over both nodes, one process each; equal to 1e-6 at the least)
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
[ -n "${LOCAL:-}" ] || "$python" -m benchmarks "${common[@]}" --output "$local"
"$python" - "$work/cluster" "$local" "$nodes" <<'PYTHON'
import sys
from pathlib import Path

from runs.record import read_record

cluster, local, nodes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
done = sorted(path.parent.relative_to(cluster) for path in cluster.glob("*/*/result.json"))
worst = 0.0
for run in done:
    ours, theirs = read_record(cluster / run).metrics, read_record(local / run).metrics
    gap = max(abs(ours[name] - theirs[name]) for name in theirs)
    print(f"{run}: largest difference {gap:.1e}")
    worst = max(worst, gap)
# The same commands on one node have the same metrics, digit for digit; over two the sums are taken in another order.
if not done or (nodes == 1 and worst):
    sys.exit(f"{len(done)} records differ by up to {worst}")
print(f"{len(done)} records through SLURM on {nodes} node{'s' * (nodes > 1)}, largest difference of a metric {worst:.1e}")
PYTHON
echo "kept: $work"
