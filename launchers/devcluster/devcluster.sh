#!/usr/bin/env bash
# A real SLURM on one Debian machine, for tests and for trying things out: partitions `gpu` (two nodes with two pretended
# GPUs each) and `cpu` (two nodes), four slots a node; no systemd, no cgroups, no accounting, nothing outside its folder.
#
#   devcluster.sh up                 install what is missing, start, wait until all nodes are idle; harmless when it is up
#   devcluster.sh down               stop all of it, and every job, and remove its folder
#   devcluster.sh status             its nodes and jobs; fails when it is down
#   devcluster.sh env                what to eval so that sbatch, sinfo and chemloop find it
#   devcluster.sh kill-node NAME     a power cut: slurmd and all jobs of that node die without a word
#   devcluster.sh start-node NAME
#   devcluster.sh restart-controller
#
# CHEMLOOP_DEVCLUSTER is its folder: short, because unix sockets below it have paths of at most 107 characters.
# CHEMLOOP_DEVCLUSTER_PORT is the first of its nine ports; with both changed, a second cluster runs beside the first.
set -euo pipefail

folder=${CHEMLOOP_DEVCLUSTER:-/tmp/chemloop-slurm-$(id -u)}
port=${CHEMLOOP_DEVCLUSTER_PORT:-26800}
nodes="gpu1 gpu2 cpu1 cpu2"
gpus=2 slots=4 memory_mb=6000
me=$(id -un) host=$(hostname -s)
PATH=$PATH:/usr/sbin:/sbin
export SLURM_CONF=$folder/etc/slurm.conf

fail() { echo "devcluster: $*" >&2; exit 1; }

# whether the process of a pid file runs; a zombie does not
runs() {
    local pid
    pid=$(cat "$1" 2>/dev/null) && [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null && ! grep -qs '^State:.Z' "/proc/$pid/status"
}

# wait_until SECONDS COMMAND...
wait_until() {
    local tries=$(($1 * 10))
    shift
    while ! "$@" >/dev/null 2>&1; do
        [ $((tries--)) -gt 0 ] || fail "waited in vain for: $*; the logs are in $folder/log and $folder/nodes"
        sleep 0.1
    done
}

all_nodes_work() { [ "$(timeout 5 sinfo --noheader --Node --format %t | grep -cE '^(idle|mix|alloc)$')" = 4 ]; }

install_packages() {
    command -v slurmctld slurmd munged sbatch >/dev/null && return
    command -v apt-get >/dev/null || fail "needs slurmctld, slurmd, sbatch and munged, and knows how to install them on Debian only"
    local as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -qq -y --no-install-recommends slurm-wlm munge >/dev/null
}

write_configuration() {
    mkdir -p "$folder"/{etc,run,log,state,devices}
    local node number=0 next=$((port + 1))
    for node in $nodes; do mkdir -p "$folder/nodes/$node/spool"; done
    (umask 077; head -c 1024 /dev/urandom >"$folder/etc/munge.key")
    # slurmd wants character devices behind its GPUs
    for number in $(seq 0 $((gpus - 1))); do ln -sfn /dev/null "$folder/devices/nvidia$number"; done
    echo "NodeName=gpu[1-2] Name=gpu File=$folder/devices/nvidia[0-$((gpus - 1))]" >"$folder/etc/gres.conf"
    cat >"$folder/etc/slurm.conf" <<END
ClusterName=dev
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$me
SlurmdUser=$me
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits before it starts again; the default is two minutes
AuthInfo=socket=$folder/run/munge.socket,cred_expire=5
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd-%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
# slurmd and slurmstepd work in the folder of their log, by which kill-node tells the nodes apart
SlurmdLogFile=$folder/nodes/%n/slurmd.log
SlurmdSpoolDir=$folder/nodes/%n/spool
StateSaveLocation=$folder/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
# without cgroups this is what notices a job that uses more memory than it asked for
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=10
KillWait=5
MinJobAge=60
# never the same job ids twice, not even in a fresh cluster
FirstJobId=$(($(date +%s) % 10000000 + 1))
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,bf_interval=2
GresTypes=gpu
END
    for node in $nodes; do
        local gres=
        case $node in gpu*) gres="Gres=gpu:$gpus" ;; esac
        echo "NodeName=$node NodeHostname=$host NodeAddr=127.0.0.1 Port=$next CPUs=$slots RealMemory=$memory_mb $gres"
        next=$((next + 1))
    done >>"$folder/etc/slurm.conf"
    cat >>"$folder/etc/slurm.conf" <<END
PartitionName=gpu Nodes=gpu[1-2] MaxTime=1-0 DefaultTime=60 State=UP
PartitionName=cpu Nodes=cpu[1-2] MaxTime=1-0 DefaultTime=60 State=UP Default=YES
END
}

start_node() {
    runs "$folder/run/slurmd-$1.pid" || slurmd -N "$1"
}

descendants() {
    local child
    for child in $(pgrep -P "$1" || true); do descendants "$child"; done
    echo "$1"
}

kill_node() {
    local process pid
    for process in /proc/[0-9]*; do
        pid=${process#/proc/}
        case $(cat "$process/comm" 2>/dev/null || true) in slurmd | slurmstepd)
            [ "$(readlink "$process/cwd")" != "$folder/nodes/$1" ] || kill -9 $(descendants "$pid") 2>/dev/null || true
            ;;
        esac
    done
    rm -f "$folder/run/slurmd-$1.pid"
}

stop() {
    runs "$folder/run/$1.pid" || return 0
    kill "$(cat "$folder/run/$1.pid")"
    local tries=100
    while runs "$folder/run/$1.pid" && [ $((tries--)) -gt 0 ]; do sleep 0.1; done
}

up() {
    [ ${#folder} -le 60 ] || fail "the path of its folder is too long for unix sockets: $folder; set CHEMLOOP_DEVCLUSTER"
    install_packages
    if ! runs "$folder/run/slurmctld.pid"; then
        down
        write_configuration
    fi
    runs "$folder/run/munged.pid" || munged --key-file="$folder/etc/munge.key" --socket="$folder/run/munge.socket" \
        --pid-file="$folder/run/munged.pid" --seed-file="$folder/run/munged.seed" --log-file="$folder/log/munged.log"
    runs "$folder/run/slurmctld.pid" || slurmctld -c
    for node in $nodes; do start_node "$node"; done
    wait_until 30 all_nodes_work
    status
}

down() {
    [ -d "$folder" ] || return 0
    for node in $nodes; do kill_node "$node"; done
    stop slurmctld
    stop munged
    rm -rf "${folder:?}"/{etc,run,log,state,devices,nodes}
    rmdir --ignore-fail-on-non-empty "$folder"
}

status() {
    runs "$folder/run/slurmctld.pid" || fail "it is down; start it with $0 up"
    sinfo --Node --format "%.8N %.9P %.6t %.4c %.8m %G"
    squeue
}

case ${1:-} in
    up) up ;;
    down) down ;;
    status) status ;;
    env) echo "export SLURM_CONF=$SLURM_CONF" ;;
    kill-node) kill_node "$2" ;;
    start-node) start_node "$2" ;;
    restart-controller) stop slurmctld; slurmctld ;;
    *) sed -n '2,/^set -/{/^#/p}' "$0"; exit 2 ;;
esac
