#!/usr/bin/env bash
# Starts a SLURM cluster of two nodes on this machine, runs a command in it, and stops it.
#
#   sudo tests/slurm/run.sh                 (the tests of this folder, which are skipped elsewhere)
#   sudo tests/slurm/run.sh .venv/bin/python -m benchmarks run table4 --scale mini --nodes 2 --executor slurm
#
# Needs Debian or Ubuntu and root: SLURM's daemons start jobs as other users. Everything it writes lies in one folder.
# Without systemd and without control of cgroups, hence the plain plugins below.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || set -- "${PYTHON:-.venv/bin/python}" -m pytest -x -q -n 0 tests/slurm
work=$(mktemp -d "${TMPDIR:-/tmp}/slurm-test.XXXXXX")
chmod 755 "$work"

command -v slurmctld slurmd munged sbatch >/dev/null || {
    apt-get update -qq
    apt-get install -y -qq slurmctld slurmd munge slurm-client
}

stop() {
    for name in node1 node2 slurmctld; do
        [ ! -f "$work/$name.pid" ] || kill "$(cat "$work/$name.pid")" 2>/dev/null || true
    done
    [ -z "${linked:-}" ] || rm -f /etc/slurm/slurm.conf
    [ -z "${munged_started:-}" ] || kill "$(cat /run/munge/munged.pid)" 2>/dev/null || true
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
# A requeued job may start again at once, as far as the two settings can say so.
SchedulerParameters=sched_interval=1,bf_interval=1
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=1 RealMemory=$memory
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=1 RealMemory=$memory
PartitionName=test Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
CONF
mkdir -p "$work/state" "$work/spool/node1" "$work/spool/node2"
export SLURM_CONF="$work/slurm.conf"
# Inside a job srun no longer has that variable.
[ -e /etc/slurm/slurm.conf ] || { mkdir -p /etc/slurm; ln -sf "$work/slurm.conf" /etc/slurm/slurm.conf; linked=yes; }

if ! munge -n 2>/dev/null | unmunge >/dev/null 2>&1; then
    [ -f /etc/munge/munge.key ] || { head -c 1024 /dev/urandom > /etc/munge/munge.key; chown munge /etc/munge/munge.key; chmod 400 /etc/munge/munge.key; }
    install -d -o munge -m 755 /run/munge
    su -s /bin/sh munge -c /usr/sbin/munged
    munged_started=yes
fi
slurmctld -f "$SLURM_CONF"
for name in node1 node2; do slurmd -f "$SLURM_CONF" -N "$name"; done
for _ in $(seq 30); do srun -N2 -n2 true 2>/dev/null && break; sleep 1; done
srun -N2 -n2 printenv SLURMD_NODENAME
"$@"
