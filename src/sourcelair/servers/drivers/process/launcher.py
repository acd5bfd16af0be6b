"""The launcher: it claims the instance's id before it becomes the command, so that a start happens once or never.

Whoever creates the file `claims/INSTANCE` first has won (`O_EXCL`): a launcher, which writes who it is and goes on as
the command, or `void`, after which a launcher that is still on its way ends without running anything. Nothing here is
synced to disk: what a claim fences off does not survive a crash of the machine either, and claims carry the boot that
they belong to.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sourcelair.servers.drivers.process.identity import Identity, booted_at, this_boot

VOID = "void"
UNJOINED = 121
# $1 claim, $2 boot, $3 port, $4 number of cgroups to join, these, then the command. Only builtins, so that it costs one
# exec. Without a cgroup that it was to join it ends: it would run without its limits.
# Standard input is a pipe from whoever starts it: without the word it claims nothing, and ends. All that can be done
# before is done before. Standard output is a pipe back, standard error the log: what is written to the pipe says that
# the claim is ours, and becoming the command closes it.
SCRIPT = """
set -C
lair_claim=$1 lair_boot=$2 lair_port=$3 lair_groups=$4
shift 4
while [ "$lair_groups" -gt 0 ]; do
  { echo $$ >| "$1/cgroup.procs"; } 2> /dev/null || exit 121
  shift
  lair_groups=$((lair_groups - 1))
done
IFS= read -r lair_stat < /proc/$$/stat || exit 120
field22() { lair_start=${20}; }
field22 ${lair_stat##*) }
read -r lair_word || exit 119
exec < /dev/null
{ printf '%s %s %s %s\\n' $$ "$lair_start" "$lair_boot" "$lair_port" > "$lair_claim"; } 2> /dev/null || exit 120
echo "$lair_start" || exit 120
unset PWD OLDPWD lair_word lair_stat lair_start lair_claim lair_boot lair_port lair_groups
exec "$@" >&2
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim file says. `identity` is None where a launcher has not written it yet, or could not."""

    void: bool
    identity: Identity | None = None
    port: int | None = None


class Claims:
    """The claim files of one installation.

    Args:
        directory: where they lie; it is made when the first is written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, instance: str) -> Path:
        """Return the file of an instance."""
        if "/" in instance or instance.startswith("."):
            raise ValueError(f"{instance!r} is not the id of an instance")
        return self.directory / instance

    def read(self, instance: str) -> Claim | None:
        """Return the claim, or None if nobody has claimed this id."""
        try:
            words = self.path(instance).read_text().split()
        except FileNotFoundError:
            return None
        if words[:1] == [VOID]:
            return Claim(void=True)
        if len(words) != 4:
            return Claim(void=False)
        pid, start, boot, port = words
        return Claim(void=False, identity=Identity(int(pid), int(start), boot), port=int(port))

    def void(self, instance: str) -> bool:
        """Claim the id for nobody. Returns whether it is void now; False when a launcher has claimed it."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Linked into place with its content, so that an empty claim can only be a launcher's.
        handle, name = tempfile.mkstemp(prefix=".void-", dir=self.directory)
        try:
            os.write(handle, f"{VOID} {this_boot()}\n".encode())
            self.path(instance).hardlink_to(name)
        except FileExistsError:
            claim = self.read(instance)
            return claim is not None and claim.void
        finally:
            os.close(handle)
            Path(name).unlink()
        return True

    def remove(self, instance: str) -> None:
        """Forget the claim of an instance that ended. A void one stays until a reboot: its start may still come."""
        claim = self.read(instance)
        if claim is not None and not claim.void:
            self.path(instance).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what a boot before this one left."""
        for name in self._names():
            path = self.path(name)
            with contextlib.suppress(FileNotFoundError):
                words = path.read_text().split()
                # An empty one was left by a launcher that was killed just then: only its age tells of which boot it is.
                if this_boot() not in words and (words or path.stat().st_mtime < booted_at()):
                    path.unlink()

    def instances(self) -> Iterator[str]:
        """Give the ids that a launcher has claimed."""
        for name in self._names():
            claim = self.read(name)
            if claim is not None and not claim.void:
                yield name

    def _names(self) -> list[str]:
        try:
            return [path.name for path in self.directory.iterdir() if not path.name.startswith(".")]
        except FileNotFoundError:
            return []


class Word:
    """What a launcher waits for before it claims: a pipe, so that it ends if whoever would say it does."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()

    def give(self) -> None:
        """Let the launcher claim. Once this is closed it is nothing: the file's number may be another's by then."""
        if self._writer >= 0:
            with contextlib.suppress(BrokenPipeError):  # it has failed, and says so itself
                os.write(self._writer, b"\n")

    def close_reader(self) -> None:
        """Close this process's copy of the launcher's end; a second time it is nothing."""
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._writer)
        self._writer = -1


def launch(
    claims: Claims,
    instance: str,
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: int,
    port: int,
    groups: Sequence[Path],
    word: Word,
) -> tuple[subprocess.Popen[bytes], int | None]:
    """Start a command through the launcher, and wait until it has claimed (or lost) the id: about 2 ms, blocking.

    Args:
        claims: of this installation.
        instance: whose id is claimed.
        command: what to become.
        env: its whole environment.
        cwd: its working directory.
        log: where its output goes, an open file.
        port: noted in the claim.
        groups: cgroups that it joins before it becomes the command: the first costs some milliseconds.
        word: without which it claims nothing.

    Returns:
        the child, and its start time in clock ticks; None when it has ended without running anything: it lost the
        claim, or had no word, or with the code `UNJOINED` it could not join a cgroup.
    """
    claims.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    script = ["/bin/sh", "-c", SCRIPT, "lair", str(claims.path(instance)), this_boot(), str(port)]
    child = subprocess.Popen(
        [*script, str(len(groups)), *map(str, groups), *command],
        env=env,
        cwd=cwd,
        stdin=word.reader,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
    )
    word.close_reader()
    assert child.stdout is not None  # noqa: S101 - we asked for a pipe
    with child.stdout:
        said = child.stdout.read().strip()
    if said:
        return child, int(said)
    child.wait()
    return child, None
