"""The shell text behind lease.py: what changes a lease, on the host, under a lock. For POSIX sh, busybox's too."""

from __future__ import annotations

STALE_S = 60
LOCK_TRIES = 100  # of 0.1 s
MARKER = ".nsvm"
SIGN = r"%-12s\n"  # of one length

# $w workdir, $run, $worker, $me (its beat), $holder. Says on its first line FREE (it is ours, and nobody's before),
# JOIN, TAKEN (ours, after a run that is dead), HELD, or TROUBLE; what follows is the boot id or the explanation.
COMMON = """
umask 077
LC_ALL=C; export LC_ALL
die() { printf 'TROUBLE\\n%s\\n' "$1"; exit 0; }
up() { read -r u _ < /proc/uptime; u=${u%.*}; }
nap() { sleep 0.1 2>/dev/null || sleep 1; }
lock() {
  n=0; dead=
  until e=$(ln -s $$ "$w/lock" 2>&1); do
    [ -d "$w" ] || return 1
    if p=$(readlink "$w/lock"); then
      # Whose process is gone may have let go of it a moment ago, and it is another's by now: so it is looked at twice.
      if [ -d "/proc/$p" ]; then dead=
      elif [ "$dead" = "$p" ]; then rm -f "$w/lock"
      else dead=$p; fi
    # Whoever had it between the two has let go of it again, perhaps with the folder, which is another run's by now.
    else case "$e" in *[Ee]xists*|*"No such"*) ;; *) die "$e" ;; esac; fi
    n=$((n + 1)); [ $n -lt TRIES ] || die "its lock $w/lock is held by process $p of that host"
    nap
  done
  trap 'rm -f "$w/lock"' EXIT
}
empty() { for f in "$w"/* "$w"/.[!.]*; do case "$f" in "$w/lock"|"$w/MARKER") ;; *) rm -rf "$f" ;; esac; done; }
# Renamed first, with the lock in it: whoever waits for that must find the whole folder or none.
leave() { mv "$w" "$w.gone-$$" || return 1; trap - EXIT; rm -rf "$w.gone-$$"; }
# What one that was killed meanwhile has left.
sweep() {
  for f in "$w".gone-[0-9]*; do
    [ -d "$f" ] && [ -O "$f" ] && [ ! -L "$f" ] && [ ! -d "/proc/${f##*-}" ] && rm -rf "$f"
  done
}
spoilt() { leave; die "$1"; }
""".replace("TRIES", str(LOCK_TRIES)).replace("MARKER", MARKER)

ACQUIRE = (
    (
        COMMON
        + """
read -r boot < "$boot_file"
tries=0
while :; do
  tries=$((tries + 1)); [ $tries -lt 20 ] || die "$w cannot be locked"
  mkdir -p "${w%/*}" 2>/dev/null
  if e=$(mkdir "$w" 2>&1); then
    # Who waited for the lock of the folder before may have had this one meanwhile, and have left already.
    e=$( (: > "$w/MARKER") 2>&1) || { [ -d "$w" ] || continue; rmdir "$w"; die "${e##*: }: $w"; }
  elif [ ! -d "$w" ]; then
    case "$e" in *[Ee]xists*) [ -e "$w" ] || continue ;; esac  # it was, and has just been removed
    die "$e (set workdir for this host)"
  fi
  [ -O "$w" ] && [ ! -L "$w" ] || { [ -d "$w" ] || continue; die "$w is another user's (set workdir for this host)"; }
  n=0
  while [ -d "$w" ] && [ ! -e "$w/MARKER" ]; do  # it may be half made
    n=$((n + 1)); [ $n -lt 20 ] || die "$w is not nsvm's own: it has no file MARKER (set workdir for this host)"
    nap
  done
  lock && break
done
said=FREE
if [ -e "$w/lease" ]; then
  { read -r r; read -r b; read -r since; read -r who; } < "$w/lease"
  up; now=$u; age=
  if [ "$b" = "$boot" ]; then
    for f in "$w"/beat.*; do
      [ -e "$f" ] && read -r t < "$f" && [ "$t" -ge 0 ] 2>/dev/null || continue
      a=$((now - t)); [ -n "$age" ] && [ "$a" -ge "$age" ] || age=$a
    done
  fi
  if [ "$r" = "$run" ] && [ "$b" = "$boot" ]; then said=JOIN
  elif [ -n "$age" ] && [ "$age" -lt STALE ]; then
    printf 'HELD\\n%s\\n' "$who, run $r, since $since, last sign of life $age s ago"
    exit 0
  else said=TAKEN; fi
fi
if [ $said != JOIN ]; then
  empty
  sweep
  e=$( (printf '#!/bin/sh\\n' > "$w/try" && chmod 700 "$w/try") 2>&1) || spoilt "${e##*: }: $w/try"
  "$w/try" 2>/dev/null || spoilt "no program can be started from $w, it is mounted noexec (set workdir for this host)"
  rm -f "$w/try"
  since=$(date '+%Y-%m-%d %H:%M:%S')
  e=$( (printf '%s\\n' "$run" "$boot" "$since" "$holder" > "$w/lease") 2>&1) || spoilt "${e##*: }: $w/lease"
fi
rm -f "$w/beat.$worker".*
up; e=$( (printf 'SIGN' "$u" > "$w/beat.$me") 2>&1) && [ -s "$w/beat.$me" ] ||
  die "${e:-no space left on device}: $w/beat.$me"
printf '%s\\n%s\\n%s\\n' $said "$boot" "$r $who"
"""
    )
    .replace("MARKER", MARKER)
    .replace("STALE", str(STALE_S))
    .replace("SIGN", SIGN)
)

# Ends when its line does: a run that was killed has then hung up at once. Its file is its connection's own, so that
# what is left of a lost connection cannot speak for the next one. It is written over and never cut: a sign of life must
# not be missing for a moment, nor for want of space, or another run would take the host.
BEAT = """
cd "$w" || exit 1
while read -r _; do
  [ -e "beat.$me" ] || exit 1
  read -r u _ < /proc/uptime; printf 'SIGN' "${u%.*}" 1<> "beat.$me"
done
[ -e "beat.$me" ] && printf 'SIGN' gone 1<> "beat.$me"
""".replace("SIGN", SIGN)

RELEASE = (
    COMMON
    + """
[ -d "$w" ] && [ -e "$w/lease" ] || { echo NONE; exit 0; }
lock || { echo NONE; exit 0; }
r=; read -r r < "$w/lease"
[ "$r" = "$run" ] || { echo NONE; exit 0; }
rm -f "$w/beat.$worker".*
for f in "$w"/beat.*; do
  [ -e "$f" ] && read -r t < "$f" && [ "$t" != gone ] && { echo SHARED; exit 0; }
done
leave && echo LAST
"""
)
