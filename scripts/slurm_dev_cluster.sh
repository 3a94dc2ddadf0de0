#!/usr/bin/env bash
# A real SLURM on this one machine, for tests: Debian's packages, no systemd, no cgroups, no accounting database.
#
#   scripts/slurm_dev_cluster.sh start    install what is missing, start munge, slurmctld and slurmd; again: nothing
#   scripts/slurm_dev_cluster.sh status   one line; exit code 0 if jobs can be submitted
#   scripts/slurm_dev_cluster.sh stop     cancel all jobs and end the three; the packages stay
#
# Exit codes: 0 fine; 1 it was tried and failed (the log's end is shown); 3 it cannot be done here (the reason is said).
set -euo pipefail

CONF=/etc/slurm/slurm.conf
MARK="# written by peftbench's scripts/slurm_dev_cluster.sh"
LOGS=/var/log/slurm
RUN=/run

say() { echo "slurm_dev_cluster: $*"; }
cannot() { say "cannot: $*" >&2; exit 3; }
failed() {
  say "failed: $*" >&2
  tail -n 5 "$LOGS"/slurmctld.log "$LOGS"/slurmd.log >&2 2>/dev/null || true
  stop >/dev/null 2>&1 || true
  exit 1
}
ours() { grep -qsF "$MARK" "$CONF"; }

alive() { # NAME: is the daemon that wrote this pid file running?
  local pid
  pid=$(cat "$RUN/$1.pid" 2>/dev/null) && [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ]
}
node_up() { sinfo --noheader --format=%T 2>/dev/null | grep -qE '^(idle|mixed|allocated)'; }

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
  local host cpus memory
  host=$(hostname -s)
  getent hosts "$host" >/dev/null || cannot "the host name $host does not resolve"
  cpus=$(nproc)
  memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo) # MiB
  mkdir -p /etc/slurm
  # Up to four jobs share a core, as tests mostly wait. A job that asks for no memory gets a share that lets them.
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
SlurmdPort=6818
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/lib/slurm/slurmd
SlurmctldPidFile=$RUN/slurmctld.pid
SlurmdPidFile=$RUN/slurmd.pid
SlurmctldLogFile=$LOGS/slurmctld.log
SlurmdLogFile=$LOGS/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=cpu Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4 DefMemPerCPU=$((memory / cpus / 4))
CONFIG
}

start() {
  [ "$(id -u)" = 0 ] || cannot "only root can start the daemons"
  install_packages
  if alive slurmctld slurmctld && alive slurmd slurmd && node_up; then
    say "already up"
    return
  fi
  write_conf
  mkdir -p /run/munge /var/lib/slurm/slurmctld /var/lib/slurm/slurmd "$LOGS"
  chown munge:munge /run/munge
  chmod 755 /run/munge
  chown slurm:slurm /var/lib/slurm/slurmctld "$LOGS"
  if ! munge -n 2>/dev/null | unmunge >/dev/null 2>&1; then
    [ -s /etc/munge/munge.key ] || runuser -u munge -- /usr/sbin/mungekey --create
    runuser -u munge -- /usr/sbin/munged --force
  fi
  wait_for 10 eval 'munge -n 2>/dev/null | unmunge >/dev/null 2>&1' || failed "munge does not answer"
  touch "$RUN/slurmctld.pid"
  chown slurm "$RUN/slurmctld.pid"
  alive slurmctld slurmctld || slurmctld -c # -c: no jobs of an earlier start
  alive slurmd slurmd || slurmd
  wait_for 30 node_up || failed "the node did not come up"
  say "up: $(sinfo --noheader --format='partition %P, %D node, %c CPUs, %m MiB, %T')"
}

stop() {
  [ "$(id -u)" = 0 ] || cannot "only root can stop the daemons"
  ours || cannot "$CONF is not ours: whatever SLURM runs here is not this script's"
  if node_up; then
    squeue --noheader --format=%A | sort -u | xargs --no-run-if-empty scancel 2>/dev/null || true
    wait_for 25 eval '[ -z "$(squeue --noheader 2>/dev/null)" ]' || say "some jobs did not end in time"
  fi
  local name
  for name in slurmd slurmctld; do
    if alive "$name" "$name"; then
      kill "$(cat "$RUN/$name.pid")"
      wait_for 10 eval "! alive $name $name" || say "$name did not end in time"
    fi
  done
  if [ -s /run/munge/munged.pid ]; then kill "$(cat /run/munge/munged.pid)" 2>/dev/null || true; fi
  say "down"
}

status() {
  if command -v sinfo >/dev/null && node_up; then
    say "up: $(sinfo --noheader --format='partition %P, %D node, %c CPUs, %m MiB, %T')"
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
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
