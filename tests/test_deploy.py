"""The files of `deploy/` and of CI hold together: with each other, with the command line and with the server.

Nothing is built or started but the Slurm script, whose `srun` and `scontrol` are small programs here.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mplug_owl import Owl, cli
from mplug_owl.serve.catalogue import Catalogue
from mplug_owl.serve.limits import OPEN
from mplug_owl.serve.metrics import Metrics
from mplug_owl.serve.options import ServeOptions
from mplug_owl.serve.server import CLOSING
from mplug_owl.serve.service import OUTCOMES
from pages import ROOT

DEPLOY = ROOT / "deploy"
DOCKERFILES = [DEPLOY / "Dockerfile.cpu", DEPLOY / "Dockerfile.cuda"]
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
PROMETHEUS = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
ALERTS = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SLURM = DEPLOY / "train.slurm"
KNOWN = {"FROM", "ENV", "RUN", "WORKDIR", "COPY", "ARG", "USER", "EXPOSE", "ENTRYPOINT", "CMD"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PATIENCE = 60.0

each_dockerfile = pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)


@dataclass(frozen=True)
class Instruction:
    name: str
    text: str


def instructions(file: Path) -> list[Instruction]:
    """Without comments, continued lines joined."""
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def of(file: Path, name: str) -> list[str]:
    return [each.text for each in instructions(file) if each.name == name]


def served(words: list[str]) -> Any:
    """What a command line of `owl serve` says, read by the command itself."""
    assert words[0] == "serve"
    return cli.parser("serve").parse_intermixed_args(words[1:])


# ---- images --------------------------------------------------------------------------------------


@each_dockerfile
def test_instructions_are_such(file: Path) -> None:
    found = instructions(file)
    assert {each.name for each in found} <= KNOWN
    assert found[0].name == "FROM"
    for base in of(file, "FROM"):
        image, _, tag = base.split()[0].partition(":")
        assert image == "python" and tag.startswith(PROJECT["requires-python"].removeprefix(">="))


@each_dockerfile
def test_shell_lines_are_shell(file: Path) -> None:
    for text in of(file, "RUN"):
        script = re.sub(r"^(--\w+=\S+\s+)+", "", text)
        assert subprocess.run(["sh", "-n", "-c", script], capture_output=True).returncode == 0
        if "apt-get install" in script:
            assert "--no-install-recommends" in script and "rm -rf /var/lib/apt/lists/*" in script


@each_dockerfile
def test_what_is_copied_is_there_and_goes_to_the_builder(file: Path) -> None:
    own = [text.split()[:-1] for text in of(file, "COPY") if "--from=" not in text]
    copied = {name for names in own for name in names}
    ignored = Path(f"{file}.dockerignore").read_text().splitlines()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == copied
    assert "*" in ignored and ignored.index("*") < min(ignored.index(f"!{name}") for name in copied)
    assert all((ROOT / name).exists() for name in copied)
    assert {PROJECT["readme"], *PROJECT["license-files"]} <= copied  # the package is not built without


@each_dockerfile
def test_versions_are_the_tested_ones_and_extras_exist(file: Path) -> None:
    [install] = [text for text in of(file, "RUN") if "pip install" in text]
    assert "--constraint constraints.txt" in install and '".[${EXTRAS}]"' in install
    [extras] = [text.partition("=")[2] for text in of(file, "ARG") if text.startswith("EXTRAS=")]
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    assert {"serve", "train"} <= set(extras.split(","))


@each_dockerfile
def test_it_serves_where_it_says_and_not_as_root(file: Path) -> None:
    [user], [port] = of(file, "USER"), of(file, "EXPOSE")
    assert any(f"useradd --create-home --uid 1000 {user}" in text for text in of(file, "RUN"))
    names = [each.name for each in instructions(file)]
    assert "RUN" not in names[names.index("USER") :]
    [entry], [usual] = of(file, "ENTRYPOINT"), of(file, "CMD")  # as JSON: without a shell between, signals arrive
    assert json.loads(entry) == ["owl"]
    said = served(json.loads(usual))
    assert (said.host, said.port) == ("0.0.0.0", int(port))


# ---- compose and Prometheus ----------------------------------------------------------------------


def test_compose_serves_for_this_machine_until_there_are_keys() -> None:
    server = COMPOSE["services"]["owl"]
    said = served(server["command"])
    assert said.host == "0.0.0.0"  # inside the container, else nobody reaches it
    for ports in server["ports"]:
        place, outer, inner = ports.rsplit(":", 2)
        assert said.keys or place == "127.0.0.1"
        assert int(inner) == said.port and int(outer)


def test_compose_waits_for_answers_and_asks_what_is_open() -> None:
    server = COMPOSE["services"]["owl"]
    assert int(server["stop_grace_period"].removesuffix("s")) > ServeOptions().drain + CLOSING
    [path] = re.findall(r"http://127\.0\.0\.1:8000(/\w+)", " ".join(server["healthcheck"]["test"]))
    assert path in OPEN
    compile(server["healthcheck"]["test"][-1], "healthcheck", "exec")


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cuda.yaml"])
def test_files_that_compose_names_exist(name: str) -> None:
    made = yaml.safe_load((DEPLOY / name).read_text())
    assert set(made["services"]) <= set(COMPOSE["services"])
    volumes = set(COMPOSE["volumes"])
    for service in made["services"].values():
        if build := service.get("build"):
            context = (DEPLOY / build.get("context", "..")).resolve()
            assert context == ROOT and (context / build["dockerfile"]) in DOCKERFILES
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (DEPLOY / source).is_file() if source.startswith("./") else source in volumes


def test_prometheus_asks_the_server() -> None:
    [job] = PROMETHEUS["scrape_configs"]
    [[target]] = [each["targets"] for each in job["static_configs"]]
    host, _, port = target.partition(":")
    assert served(COMPOSE["services"][host]["command"]).port == int(port)
    assert job["metrics_path"] == "/metrics"
    mounted = [volume.split(":")[1] for volume in COMPOSE["services"]["prometheus"]["volumes"]]
    assert {f"/etc/prometheus/{name}" for name in ("prometheus.yml", *PROMETHEUS["rule_files"])} <= set(mounted)


def test_alerts_look_at_metrics_that_exist(owl: Owl) -> None:
    page = Metrics(Catalogue({"owl": owl})).page().decode()
    known = set(re.findall(r"^# TYPE (\w+)", page, re.MULTILINE)) | {"up"}
    rules = [rule for group in ALERTS["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        names = set(re.findall(r"\b(owl_\w+|up)(?=[{\[ ])", rule["expr"]))
        assert names and {name.removesuffix("_bucket") for name in names} <= known
        outcomes = {each for text in re.findall(r'outcome=~?"([\w|]+)"', rule["expr"]) for each in text.split("|")}
        assert outcomes <= set(OUTCOMES.values())
        assert set(re.findall(r'job="(\w+)"', rule["expr"])) <= {j["job_name"] for j in PROMETHEUS["scrape_configs"]}


# ---- Slurm ---------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """An environment with a `srun` that notes its words and ends as SRUN says, and a `scontrol` that notes its own."""
    programs = {
        "srun": 'printf "%s\\n" "$@" >srun.words; eval "$SRUN"',
        "scontrol": 'case $1 in show) echo m1; echo m2;; *) echo "$@" >scontrol.words;; esac',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "m[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8"}
    return {**os.environ, **job, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}


def started(cluster: dict[str, str], folder: Path, srun: str) -> "subprocess.Popen[bytes]":
    words = ["bash", str(SLURM), "owl2-instruct-lora", "runs/a b", "init.start=/shared/owl", "compute.parallel=fsdp"]
    return subprocess.Popen(words, cwd=folder, env={**cluster, "SRUN": srun})


def test_the_job_starts_torchrun_on_each_machine(cluster: dict[str, str], tmp_path: Path) -> None:
    from torch.distributed.run import get_args_parser

    assert started(cluster, tmp_path, "true").wait(PATIENCE) == 0
    words = (tmp_path / "srun.words").read_text().splitlines()
    told = get_args_parser().parse_args(words[words.index("torchrun") + 1 :])
    assert (told.nnodes, told.nproc_per_node, told.rdzv_endpoint, told.module) == ("2", "8", "m1:29500", True)
    assert told.training_script == "mplug_owl" and told.training_script_args[0] == "train"
    run = cli.parser("train").parse_intermixed_args(told.training_script_args[1:])
    assert (run.recipe, run.out) == ("owl2-instruct-lora", Path("runs/a b"))
    assert run.overrides == ["init.start=/shared/owl", "compute.parallel=fsdp"]


@pytest.mark.parametrize("status", [0, 2])
def test_a_job_that_ends_by_itself_is_not_queued_again(cluster: dict[str, str], tmp_path: Path, status: int) -> None:
    assert started(cluster, tmp_path, f"exit {status}").wait(PATIENCE) == status
    assert not (tmp_path / "scontrol.words").exists()


@pytest.mark.parametrize(("last", "again"), [(143, True), (0, False)])
def test_a_job_whose_time_is_over_saves_and_is_queued_again(
    cluster: dict[str, str], tmp_path: Path, last: int, again: bool
) -> None:
    """Unless the run was done just then. What `saved` stands for is written before the job ends."""
    save = f"trap 'sleep 0.2; touch saved; exit {last}' TERM; touch ready; while :; do sleep 0.02; done"
    process = started(cluster, tmp_path, save)
    late = time.monotonic() + PATIENCE
    while not (tmp_path / "ready").exists() and time.monotonic() < late:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    assert (tmp_path / "saved").exists()
    asked = tmp_path / "scontrol.words"
    assert asked.read_text().split() == ["requeue", "7"] if again else not asked.exists()


def test_slurm_leaves_more_time_than_saving_may_take() -> None:
    text = SLURM.read_text()
    [before] = re.findall(r"^#SBATCH --signal=B:TERM@(\d+)$", text, re.MULTILINE)
    [saving] = re.findall(r"--shutdown-timeout (\d+)", text)
    assert int(before) > int(saving)
    assert all(shlex.split(line) for line in text.splitlines() if line.startswith("#SBATCH"))


# ---- CI ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_ci_runs_targets_that_exist(file: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = yaml.safe_load(file.read_text())
    assert made["permissions"] == {"contents": "read"}
    ran = set()
    for job in made["jobs"].values():
        assert job["timeout-minutes"]
        matrix = job.get("strategy", {}).get("matrix", {})
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"])
                continue
            name = step["run"].removeprefix("make ")
            assert name != step["run"], f"{step['run']} is no make target"
            ran |= set(matrix["target"]) if name == "${{ matrix.target }}" else {name}
    assert {"check", "test", "test-slow", "docs"} <= ran <= targets
