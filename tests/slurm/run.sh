#!/usr/bin/env bash
# A table through a real one-node SLURM: install, start, run, compare with the local executor, stop. Opt-in:
#
#   sudo tests/slurm/run.sh [TABLE OPTIONS…]      (default: table4 --rows scratch --columns knn200)
#   sudo LOCAL=outputs/all tests/slurm/run.sh table4 table5      (compares with a finished local run)
#
# Needs Debian or Ubuntu and root: SLURM's daemons start jobs as other users. Everything it writes lies in one folder,
# and the daemons are stopped at the end. Without systemd and without control of cgroups, hence the plain plugins below.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
work=$(mktemp -d "${TMPDIR:-/tmp}/slurm-test.XXXXXX")
chmod 755 "$work"
arguments=("$@")
[ ${#arguments[@]} -gt 0 ] || arguments=(table4 --rows scratch --columns knn200)

command -v slurmctld slurmd munged sbatch >/dev/null || {
    apt-get update -qq
    apt-get install -y -qq slurmctld slurmd munge slurm-client
}
# The executor plugin, beside the environment rather than in it.
if ! "$python" -c "import snakemake_executor_plugin_slurm" 2>/dev/null; then
    uv=$(dirname "$python")/uv
    "$uv" pip install --quiet --python "$python" --target "$work/plugins" --no-deps \
        "snakemake-executor-plugin-slurm>=2.0" snakemake-executor-plugin-slurm-jobstep throttler pandas python-dateutil six
    export PYTHONPATH="$work/plugins${PYTHONPATH:+:$PYTHONPATH}"
fi

stop() {
    for daemon in slurmd slurmctld; do
        [ -f "$work/$daemon.pid" ] && kill "$(cat "$work/$daemon.pid")" 2>/dev/null || true
    done
    [ -z "${linked:-}" ] || rm -f /etc/slurm/slurm.conf
    [ -n "${munged_started:-}" ] && [ -f /run/munge/munged.pid ] && kill "$(cat /run/munge/munged.pid)" 2>/dev/null || true
}
trap stop EXIT

host=$(hostname -s)
cat > "$work/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 * 9 / 10))
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
mkdir -p "$work/state" "$work/spool"
export SLURM_CONF="$work/slurm.conf"
# Inside a job the executor's srun no longer has that variable.
[ -e /etc/slurm/slurm.conf ] || { mkdir -p /etc/slurm; ln -s "$work/slurm.conf" /etc/slurm/slurm.conf; linked=yes; }

if ! munge -n >/dev/null 2>&1 || ! munge -n | unmunge >/dev/null 2>&1; then
    [ -f /etc/munge/munge.key ] || { head -c 1024 /dev/urandom > /etc/munge/munge.key; chown munge /etc/munge/munge.key; chmod 400 /etc/munge/munge.key; }
    install -d -o munge -m 755 /run/munge
    su -s /bin/sh munge -c /usr/sbin/munged
    munged_started=yes
fi
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF"
for _ in $(seq 30); do srun -n1 true 2>/dev/null && break; sleep 1; done
srun -n1 hostname

common=(run "${arguments[@]}" --scale mini)
"$python" -m benchmarks "${common[@]}" --output "$work/cluster" --executor slurm -- \
    --slurm-status-command squeue --slurm-init-seconds-before-status-checks 2 --seconds-between-status-checks 2 \
    --default-resources slurm_partition=test runtime=60 mem_mb=4000 --latency-wait 30
local=${LOCAL:-$work/local}
[ -n "${LOCAL:-}" ] || "$python" -m benchmarks "${common[@]}" --output "$local"
"$python" - "$work/cluster" "$local" <<'PYTHON'
import sys
from pathlib import Path

from runs.record import read_record

cluster, local = map(Path, sys.argv[1:])
done = sorted(path.parent.relative_to(cluster) for path in cluster.glob("*/*/result.json"))
differ = [str(run) for run in done if read_record(cluster / run).metrics != read_record(local / run).metrics]
if not done or differ:
    sys.exit(f"{len(differ)} of {len(done)} records differ: {differ}")
print(f"{len(done)} records through SLURM, each with the metrics of the local run")
PYTHON
echo "kept: $work"
