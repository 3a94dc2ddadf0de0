#!/usr/bin/env bash
# A real SLURM of two nodes on this one machine, for tests: Debian's packages, no systemd, no cgroups, no accounting.
#
#   scripts/slurm_dev_cluster.sh start    install what is missing, start munge, slurmctld and a slurmd for each node;
#                                         again: only what is not running, such as the slurmd of a node that was killed
#   scripts/slurm_dev_cluster.sh status   one line; exit code 0 if jobs can be submitted
#   scripts/slurm_dev_cluster.sh stop     cancel all jobs, end them all, remove what they wrote; packages and logs stay
#
# The nodes' names do not resolve, as on some clusters; `export MASTER_ADDR=127.0.0.1` lets processes on both meet.
# Exit codes: 0 fine; 1 it was tried and failed (the log's end is shown); 3 it cannot be done here (the reason is said).
set -euo pipefail

CONF=/etc/slurm/slurm.conf
MARK="# written by peftbench's scripts/slurm_dev_cluster.sh"
LOGS=/var/log/slurm
RUN=/run
STATE=/var/lib/slurm
NODES=(peftbench-1 peftbench-2)

say() { echo "slurm_dev_cluster: $*"; }
cannot() { say "cannot: $*" >&2; exit 3; }
failed() {
  say "failed: $*" >&2
  tail -n 5 "$LOGS"/slurmctld.log "$LOGS"/slurmd.*.log >&2 2>/dev/null || true
  stop >/dev/null 2>&1 || true
  exit 1
}
ours() { grep -qsF "$MARK" "$CONF"; }

alive() { # NAME: is the daemon that wrote this pid file (slurmctld, slurmd.NODE) running?
  local pid
  pid=$(cat "$RUN/$1.pid" 2>/dev/null) && [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "${1%%.*}" ]
}
nodes_up() { # how many take jobs; a state with a star (idle*) is that of a node which does not answer
  sinfo --noheader --Node --format=%T 2>/dev/null | grep -cE '^(idle|mixed|allocated|completing)$' || true
}
a_node_up() { [ "$(nodes_up)" -gt 0 ]; }
all_up() {
  local node
  for node in "${NODES[@]}"; do alive "slurmd.$node" || return 1; done
  alive slurmctld && [ "$(nodes_up)" = "${#NODES[@]}" ]
}

wait_for() { # SECONDS COMMAND...
  local left=$(($1 * 5))
  shift
  until "$@"; do
    left=$((left - 1))
    [ "$left" -gt 0 ] || return 1
    sleep 0.2
  done
}

install_packages() {
  if command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null; then return; fi
  command -v apt-get >/dev/null || cannot "SLURM is not installed and there is no apt-get to install it with"
  local log
  log=$(mktemp)
  say "installing slurm-wlm and munge"
  export DEBIAN_FRONTEND=noninteractive
  # another apt may be at work, and an old package list is refreshed only if need be
  local get=(apt-get -o DPkg::Lock::Timeout=120 -qq)
  if ! "${get[@]}" install -y --no-install-recommends slurm-wlm munge >"$log" 2>&1; then
    { "${get[@]}" update && "${get[@]}" install -y --no-install-recommends slurm-wlm munge; } >>"$log" 2>&1 || {
      tail -n 5 "$log" >&2
      cannot "apt-get could not install slurm-wlm and munge"
    }
  fi
}

write_conf() {
  if [ -s "$CONF" ] && ! ours; then
    cannot "$CONF is there and is not ours: this machine has a SLURM of its own"
  fi
  local host cpus memory number
  host=$(hostname -s)
  getent hosts "$host" >/dev/null || cannot "the host name $host does not resolve"
  cpus=$(env -u OMP_NUM_THREADS nproc) # nproc honours the variable, and a node of one CPU takes no job of two tasks
  memory=$(awk -v nodes="${#NODES[@]}" '/MemTotal/ {print int($2 / 1024 * 0.9 / nodes)}' /proc/meminfo) # MiB
  mkdir -p /etc/slurm
  # Each node has all cores, and up to two jobs share one: four in all, as tests mostly wait. A job that asks for no
  # memory gets a share that lets them.
  cat >"$CONF" <<CONFIG
$MARK
ClusterName=peftbench
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=5
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SwitchType=switch/none
ReturnToService=2
KillWait=15
PropagatePrioProcess=1
SlurmUser=slurm
SlurmdUser=root
SlurmctldPort=6817
TreeWidth=65533
StateSaveLocation=$STATE/slurmctld
SlurmdSpoolDir=$STATE/slurmd.%n
SlurmctldPidFile=$RUN/slurmctld.pid
SlurmdPidFile=$RUN/slurmd.%n.pid
SlurmctldLogFile=$LOGS/slurmctld.log
SlurmdLogFile=$LOGS/slurmd.%n.log
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:2 DefMemPerCPU=$((memory / cpus / 2))
CONFIG
  for number in "${!NODES[@]}"; do
    echo "NodeName=${NODES[number]} NodeHostname=$host NodeAddr=127.0.0.1 Port=$((6818 + number))" \
      "CPUs=$cpus RealMemory=$memory State=UNKNOWN" >>"$CONF"
  done
}

start() {
  [ "$(id -u)" = 0 ] || cannot "only root can start the daemons"
  install_packages
  if all_up; then
    say "already up"
    return
  fi
  alive slurmctld || write_conf # daemons and clients must not differ in what they read
  mkdir -p /run/munge "$STATE/slurmctld" "${NODES[@]/#/$STATE/slurmd.}" "$LOGS"
  chown munge:munge /run/munge
  chmod 755 /run/munge
  chown slurm:slurm "$STATE/slurmctld" "$LOGS"
  if ! munge -n 2>/dev/null | unmunge >/dev/null 2>&1; then
    [ -s /etc/munge/munge.key ] || runuser -u munge -- /usr/sbin/mungekey --create
    runuser -u munge -- /usr/sbin/munged --force
  fi
  wait_for 60 eval 'munge -n 2>/dev/null | unmunge >/dev/null 2>&1' || failed "munge does not answer"
  if ! alive slurmctld; then
    touch "$RUN/slurmctld.pid"
    chown slurm "$RUN/slurmctld.pid"
    slurmctld -c # -c: no jobs of an earlier start
  fi
  local node
  for node in "${NODES[@]}"; do
    alive "slurmd.$node" || slurmd -N "$node" || failed "the slurmd of $node did not start"
  done
  wait_for 300 all_up || failed "the nodes did not come up"
  say "up: $(shown)"
}

stop() {
  [ "$(id -u)" = 0 ] || cannot "only root can stop the daemons"
  if [ ! -e "$CONF" ]; then
    say "down"
    return
  fi
  ours || cannot "$CONF is not ours: whatever SLURM runs here is not this script's"
  if a_node_up; then
    squeue --noheader --format=%A | sort -u | xargs --no-run-if-empty scancel 2>/dev/null || true
    wait_for 25 eval '[ -z "$(squeue --noheader 2>/dev/null)" ]' || say "some jobs did not end in time"
  fi
  local name
  for name in "${NODES[@]/#/slurmd.}" slurmctld; do
    if alive "$name"; then
      kill "$(cat "$RUN/$name.pid")"
      wait_for 10 eval "! alive $name" || say "$name did not end in time"
    fi
    rm -rf "${RUN:?}/$name.pid" "${STATE:?}/$name"
  done
  if [ -s /run/munge/munged.pid ]; then kill "$(cat /run/munge/munged.pid)" 2>/dev/null || true; fi
  rm -f "$CONF"
  say "down"
}

shown() { sinfo --noheader --format='partition %P, %D nodes, %c CPUs, %m MiB, %T'; }

status() {
  if command -v sinfo >/dev/null && a_node_up; then
    say "up: $(shown)"
  else
    say "down"
    return 1
  fi
}

case "${1:-}" in
  start) start ;;
  stop) stop ;;
  status) status ;;
  *)
    sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
