"""Executes a Dockerfile without Docker: each stage is a directory, RUN happens in a chroot with namespaces of its own.

Only what deploy/Dockerfile uses is understood, and anything else is an error. The base image debian:bookworm-slim is
what debootstrap's minbase makes of the same packages.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BASE = "debian:bookworm-slim"
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"


@dataclass
class Stage:
    root: Path
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    healthcheck: Sequence[str] = ()
    exposed: Sequence[str] = ()
    env: dict[str, str] = field(default_factory=dict)


def instructions(text: str) -> list[tuple[str, str]]:
    """Name and the rest of each, continuation lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [(name.upper(), " ".join(rest.split())) for name, rest in pairs]


def build(dockerfile: Path, context: Path, base: Path, work: Path) -> Stage:
    """The last stage. `base` is the root of BASE, left as it is; stages are made below `work`. Needs root.

    Raises RuntimeError with the output of the step that failed.
    """
    stages: dict[str, Stage] = {}
    stage = Stage(work)
    for name, rest in instructions(dockerfile.read_text()):
        match name:
            case "FROM":
                source, *alias = rest.replace(" AS ", " ").split()
                before = Stage(base) if source == BASE else stages[source]
                stage = Stage(work / f"stage-{len(stages)}", env=dict(before.env))
                stages[alias[0] if alias else "last"] = stage
                subprocess.run(["cp", "-a", "--reflink=auto", before.root, stage.root], check=True)
            case "RUN":
                run(stage, ["/bin/sh", "-c", rest], network=True)
            case "WORKDIR":
                stage.workdir = rest
                inside(stage, rest).mkdir(parents=True, exist_ok=True)
            case "COPY":
                copy(stage, rest, context, stages)
            case "USER":
                stage.user = rest
            case "ENTRYPOINT":
                stage.entrypoint = json.loads(rest)
            case "CMD":
                stage.command = json.loads(rest)
            case "HEALTHCHECK":
                stage.healthcheck = json.loads(rest.partition(" CMD ")[2])
            case "EXPOSE":
                stage.exposed = rest.split()
            case _:
                raise ValueError(f"{dockerfile}: {name} is not understood")
    return stage


def copy(stage: Stage, rest: str, context: Path, stages: Mapping[str, Stage]) -> None:
    words = shlex.split(rest)
    source_root = context
    if words[0].startswith("--from="):
        source_root = stages[words.pop(0).removeprefix("--from=")].root
    *sources, target = words
    for source in sources:
        path = source_root / source.lstrip("/")
        to = inside(stage, target)
        if target.endswith("/"):
            to = to / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, to, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(path, to)


def inside(stage: Stage, path: str) -> Path:
    return stage.root / os.path.join(stage.workdir, path).lstrip("/")  # noqa: PTH118  (an absolute `path` wins)


def command_in(stage: Stage, command: Sequence[str]) -> list[str]:
    """`command` in the stage's root, as its user, with /proc of processes of its own; they end with it."""
    user, _, group = stage.user.partition(":")
    script = f'mount -t proc proc "$0/proc" && exec chroot --userspec={user}:{group} "$0" "$@"'
    inner = ["/bin/sh", "-c", f"cd {shlex.quote(stage.workdir)} && exec {shlex.join(command)}"]
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    return [*unshare, "/bin/sh", "-c", script, str(stage.root), *inner]


def environment(stage: Stage) -> dict[str, str]:
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", **stage.env}


def run(stage: Stage, command: Sequence[str], *, network: bool = False) -> str:
    """Its output. With `network` it gets this machine's way to the outside: resolver, authorities, proxies."""
    env = environment(stage)
    lent: list[Path] = []
    if network:
        for file in ("/etc/resolv.conf", "/etc/hosts", AUTHORITIES):
            to = stage.root / file.lstrip("/")
            if Path(file).exists() and not to.exists():
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, to)
                lent.append(to)
        env |= {"PIP_CERT": AUTHORITIES, "DEBIAN_FRONTEND": "noninteractive"}
        env |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    try:
        done = subprocess.run(
            command_in(stage, command),
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    finally:
        for to in lent:
            to.unlink(missing_ok=True)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)[:200]} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout
