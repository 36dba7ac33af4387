#!/usr/bin/env bash
# A SLURM of one node on this machine, for the test beside: `one_node.sh start DIR` and `one_node.sh stop DIR`.
# Installs Debian's packages where SLURM is missing (as root), and keeps everything else in DIR: `export
# SLURM_CONF=DIR/slurm.conf` and sbatch, squeue, ... talk to it. Exits 1 and says why where it cannot be had.
set -euo pipefail
command=$1 dir=$(realpath "$2")
export PATH=$PATH:/usr/sbin SLURM_CONF=$dir/slurm.conf

fail() { echo "$*" >&2; exit 1; }
last() { tail -n 1 "$1" 2>/dev/null || true; }

install() {
    command -v munged slurmctld slurmd sbatch >/dev/null && return
    command -v apt-get >/dev/null || fail "SLURM is not installed, and there is no apt-get"
    [ "$(id -u)" = 0 ] || fail "SLURM is not installed; apt-get install slurm-wlm munge needs root"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update && apt-get install -y --no-install-recommends slurm-wlm munge; } >"$dir/install.log" 2>&1 ||
        fail "apt-get install slurm-wlm munge: $(last "$dir/install.log")"
}

configure() {
    local host user
    host=$(hostname -s) user=$(id -un)
    mkdir -p "$dir/state" "$dir/spool"
    head -c 1024 /dev/urandom >"$dir/munge.key"
    chmod 400 "$dir/munge.key"
    # No cgroups and no accounts but one's own; two processors, so that two tasks run side by side. A job that was
    # requeued waits until the credentials of its last run have expired. Jobs in the partition `urgent` preempt others.
    cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=5
SlurmctldPort=$((20000 + RANDOM % 10000))
SlurmdPort=$((30000 + RANDOM % 2000))
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobRequeue=1
KillWait=10
ReturnToService=2
SchedulerParameters=sched_interval=1
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=all Nodes=ALL Default=YES PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=ALL PriorityTier=2
CONF
}

start() {
    install
    configure
    munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
        --log-file="$dir/munged.log" --seed-file="$dir/munge.seed" || fail "munged: $(last "$dir/munged.log")"
    slurmctld || fail "slurmctld: $(last "$dir/slurmctld.log")"
    slurmd || fail "slurmd: $(last "$dir/slurmd.log")"
    for _ in $(seq 60); do
        sinfo --noheader --format=%T 2>/dev/null | grep -q idle && return
        sleep 0.5
    done
    fail "the node did not come up: $(last "$dir/slurmctld.log")"
}

stop() {
    if squeue --noheader >"$dir/left" 2>/dev/null && [ -s "$dir/left" ]; then
        scancel --user="$(id -un)"
        for _ in $(seq 40); do
            squeue --noheader >"$dir/left"
            [ -s "$dir/left" ] || break
            sleep 0.5
        done
    fi
    for daemon in slurmd slurmctld munged; do
        if [ -f "$dir/$daemon.pid" ]; then kill "$(cat "$dir/$daemon.pid")" || true; fi
    done
}

"$command"
