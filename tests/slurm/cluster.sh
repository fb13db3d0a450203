#!/usr/bin/env bash
# A SLURM of one node on this machine, on loopback alone and with all its files in one folder.
#
#   tests/slurm/cluster.sh install     gets SLURM by apt-get, as root
#   tests/slurm/cluster.sh start DIR   starts whichever of its daemons does not run
#   tests/slurm/cluster.sh crash DIR   kills the node with all jobs on it, as a power cut would
#   tests/slurm/cluster.sh stop DIR    ends the jobs and the daemons
#
# Commands find it by SLURM_CONF=DIR/slurm.conf. It is whose who starts it, who need not be root.
# Exit code 69 (EX_UNAVAILABLE of sysexits.h): this machine has no SLURM.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

# Sixteen processors, however many there are: the tasks of several jobs find room. A job that is
# queued again starts when its credential has expired and the scheduler has looked: after two minutes
# and up to another by default, here after seconds.
configure() {
  local ports
  ports=$(python3 -c 'import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in sockets))')
  mkdir -p "$DIR/state" "$DIR/spool"
  (umask 077 && head --bytes=128 /dev/urandom >"$DIR/munge.key")
  cat >"$DIR/slurm.conf" <<CONF
ClusterName=tests
SlurmctldHost=localhost
SlurmctldPort=${ports% *}
SlurmdPort=${ports#* }
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$DIR/munge.socket,cred_expire=5
MailProg=/bin/true
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool
TmpFS=$DIR
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmctldLogFile=$DIR/slurmctld.log
SlurmdPidFile=$DIR/slurmd.pid
SlurmdLogFile=$DIR/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MinJobAge=86400
SchedulerParameters=sched_interval=1
ReturnToService=2
NodeName=localhost CPUs=16
PartitionName=all Nodes=ALL Default=YES
CONF
}

# The process of a daemon, unless it has ended; its number may be another's then.
process() {
  local pid
  pid=$(cat "$DIR/$1.pid" 2>/dev/null) || return 1
  grep -qs "$1" "/proc/$pid/cmdline" && echo "$pid"
}

# Sends a signal to a daemon, if it runs, and waits for its end.
end() {
  local pid
  pid=$(process "$2") || return 0
  kill "-$1" "$pid"
  while process "$2" >/dev/null; do sleep 0.05; done
}

# A daemon's first words go to its log; what it says later it writes there itself.
run() {
  process "$1" >/dev/null || "$@" </dev/null >>"$DIR/$1.log" 2>&1
}

start() {
  local command
  for command in munged slurmctld slurmd sbatch; do
    command -v "$command" >/dev/null || { echo "no SLURM: $command not found" >&2; exit 69; }
  done
  [ -e "$DIR/slurm.conf" ] || configure
  # --force: a folder that only its owner may enter will do.
  run munged --force --key-file="$DIR/munge.key" --socket="$DIR/munge.socket" \
    --pid-file="$DIR/munged.pid" --log-file="$DIR/munged.log" --seed-file="$DIR/munged.seed"
  run slurmctld -f "$SLURM_CONF"
  run slurmd -f "$SLURM_CONF"
  for _ in $(seq 300); do
    case "$(sinfo --noheader --format=%t 2>/dev/null)" in idle | mix | alloc) return ;; esac
    sleep 0.1
  done
  tail -n 20 "$DIR"/*.log >&2
  echo "the node does not come up" >&2
  exit 1
}

# Each step has a process of SLURM's, which writes to the node's log, and a session of its own.
crash() {
  local pid
  end KILL slurmd
  for pid in $(pgrep -x slurmstepd); do
    if readlink "/proc/$pid"/fd/* | grep -qxF "$DIR/slurmd.log"; then
      pkill -KILL --session "$(ps -o sid= -p "$pid" | tr -d ' ')"
    fi
  done
}

stop() {
  crash
  end TERM slurmctld
  end TERM munged
}

case "$#:${1-}" in
  1:install)
    export DEBIAN_FRONTEND=noninteractive
    apt-get update --quiet=2
    apt-get install --quiet=2 --no-install-recommends munge procps slurm-wlm >/dev/null
    ;;
  2:start | 2:crash | 2:stop)
    mkdir -p "$2"
    DIR=$(cd "$2" && pwd -P)
    export SLURM_CONF=$DIR/slurm.conf
    "$1"
    ;;
  *)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
