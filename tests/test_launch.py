"""The launch scripts; what installs packages runs in launch/test.sh itself and in .ci/run.

No cloud is reached: scripts that write down how they were called stand in for the clouds' tools.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import conftest
import pytest
import yaml

SCRIPTS = sorted(p for p in (conftest.ROOT / "launch").iterdir() if p.suffix in (".sh", ".sbatch"))
NAMES = [p.name for p in SCRIPTS]
FLAGS = ["--config=my configs/a'b.py", "--workdir=runs/$x", "--dry_run"]
SETTINGS = {
  "TPU_NAME": "pod one", "ZONE": "z", "ACCELERATOR_TYPE": "v5litepod-16", "RUNTIME_VERSION": "v2",
  "CLUSTER": "c", "TPU_TYPE": "v5litepod-16", "IMAGE": "host/image:1", "WORKLOAD": "w", "BUCKET": "s3://b",
}  # fmt: skip
LAUNCHERS = {  # what stands before the flags of crate_jax.main; the tool that must be there
  "tpu_vm.sh": (["run"], "gcloud"),
  "gke.sh": (["run", "--"], "xpk"),
  "slurm.sh": (["--"], "sbatch"),
  "skypilot.sh": (["--"], "sky"),
}

# Without the extras that the tests themselves were installed with: a script would install them, and
# a copy of the checkout, into the tests' own environment.
ENVIRONMENT = {
  name: value for name, value in os.environ.items() if name not in ("EXTRAS", "PYTHON")
}


def _script(name, folder, *arguments, **environment):
  clean = {k: v for k, v in os.environ.items() if k not in {*SETTINGS, "PROJECT", "EXTRAS", "STUB"}}
  return subprocess.run(
    ["bash", str(folder / "launch" / name), *arguments],
    capture_output=True, text=True, timeout=180, cwd="/", env=clean | environment,
  )  # fmt: skip


@pytest.fixture
def checkout(tmp_path):
  """A copy of what the scripts read, in a folder whose name has a space."""
  folder = tmp_path / "a checkout"
  shutil.copytree(conftest.ROOT / "launch", folder / "launch")
  for name in ("setup.cfg", "pyproject.toml"):
    shutil.copy(conftest.ROOT / name, folder)
  return folder


def _executable(file, text):
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text(text)
  file.chmod(0o755)
  return file


@pytest.fixture
def ready(checkout):
  """A checkout that setup.sh finds set up. There crate_jax.main is stub.py, a part of each test."""
  _executable(
    checkout / ".venv" / "bin" / "python",
    "#!/bin/bash\n"
    'if [ "$1 $2" = "-m crate_jax.main" ]; then shift; set -- stub.py "$@"; fi\n'
    f'exec {shlex.quote(sys.executable)} "$@"\n',
  )
  # As `stamp` of setup.sh has it; with another the script under test would install a copy, or fail.
  stamp = (
    'echo "$(.venv/bin/python -c "import sys; print(sys.version.split()[0])")'
    ' $(cat setup.cfg pyproject.toml launch/setup.sh | cksum)" >.venv/ready.base'
  )
  subprocess.run(["bash", "-c", stamp], check=True, cwd=checkout, timeout=120)
  return checkout


@pytest.fixture
def tools(tmp_path):
  """A PATH whose cloud tools write their arguments, NUL-separated, into the folder `calls`."""
  for name in ("gcloud", "xpk", "kubectl", "docker", "sbatch", "scontrol", "sky"):
    _executable(
      tmp_path / "tools" / name,
      f"#!/bin/bash\ncd {tmp_path}\nprintf '%s\\0' {name} \"$@\" >call.$(ls | grep -c call)\n",
    )
  return f"{tmp_path / 'tools'}:{os.environ['PATH']}"


def _calls(folder):
  return [p.read_text().split("\0")[:-1] for p in sorted(folder.glob("call.*"))]


def _printed(done):
  """The commands that a dry run printed, taken apart as a shell would."""
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  words = 'eval "set -- $1"; printf "%s\\0" "$@"'
  return [
    subprocess.run(["bash", "-c", words, "-", line], capture_output=True, text=True, check=True)
    .stdout.split("\0")[:-1]
    for line in lines
  ]  # fmt: skip


def _no_tools(tmp_path):
  """A PATH with bash and what every system has, and without any cloud's tools."""
  folder = tmp_path / "bare"
  folder.mkdir()
  for name in ("bash", "dirname", "git", "mktemp", "rm", "sed", "cat"):
    (folder / name).symlink_to(shutil.which(name))
  return str(folder)


@pytest.mark.parametrize("name", ["local.sh", "test.sh", "multiprocess.sh"])
def test_a_python_that_is_missing_is_named(name, checkout):
  done = _script(name, checkout, "1", PYTHON="/nonexistent/python3")
  assert done.returncode == 1
  assert done.stderr.startswith("PYTHON=/nonexistent/python3 is not a Python 3.11 or newer")
  assert done.stderr.count("\n") == 1
  assert not (checkout / ".venv").exists()


def test_an_old_python_is_refused(checkout, tmp_path):
  no = "#!/bin/sh\nexit 1\n"  # to the question whether it is new enough
  old = _executable(tmp_path / "python3", no)
  done = _script("test.sh", checkout, PYTHON=str(old))
  assert done.returncode == 1 and done.stderr.count("\n") == 1
  assert "3.11 or newer" in done.stderr


def test_an_unknown_extra_is_named(checkout):
  done = _script("local.sh", checkout, EXTRAS="gpu", PYTHON="")
  assert done.returncode == 1 and done.stderr.count("\n") == 1
  assert (
    'EXTRAS names "gpu"' in done.stderr
    and "tpu tpu_compile tfds beam torch wandb test" in done.stderr
  )


@pytest.mark.parametrize("name", NAMES)
def test_scripts_parse(name):
  subprocess.run(["bash", "-n", str(conftest.ROOT / "launch" / name)], check=True, timeout=120)


def test_scripts_are_clean():
  """By shellcheck, which knows what breaks on names with spaces and on other systems."""
  shellcheck = shutil.which("shellcheck", path=Path(sys.executable).parent)
  files = [*(str(p.relative_to(conftest.ROOT)) for p in SCRIPTS), ".ci/run", "benchmarks/gpu.sh"]
  done = subprocess.run(
    [shellcheck, "--external-sources", *files],
    capture_output=True, text=True, timeout=180, cwd=conftest.ROOT,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout


def test_workflows_fit_githubs_schema():
  files = sorted(str(p) for p in (conftest.ROOT / ".github" / "workflows").glob("*.yml"))
  schema = ["--builtin-schema", "vendor.github-workflows"]
  command = [sys.executable, "-m", "check_jsonschema", *schema]
  done = subprocess.run([*command, *files], capture_output=True, text=True, timeout=180)
  assert files and done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_missing_tool_is_named(name, checkout, tmp_path):
  before, tool = LAUNCHERS[name]
  done = _script(name, checkout, *before, *FLAGS, **SETTINGS, PATH=_no_tools(tmp_path))
  assert done.returncode == 1 and done.stderr.count("\n") == 1
  assert done.stderr.startswith(f"{tool} is not on the PATH")


@pytest.mark.parametrize(
  ("name", "command", "setting"),
  [
    ("tpu_vm.sh", ["logs"], "TPU_NAME"),
    ("tpu_vm.sh", ["stop"], "ZONE"),
    ("tpu_vm.sh", ["create"], "ACCELERATOR_TYPE"),
    ("tpu_vm.sh", ["create"], "RUNTIME_VERSION"),
    ("gke.sh", ["list"], "CLUSTER"),
    ("gke.sh", ["list"], "ZONE"),
    ("gke.sh", ["create"], "TPU_TYPE"),
    ("gke.sh", ["create"], "BUCKET"),
    ("gke.sh", ["build"], "IMAGE"),
    ("gke.sh", ["run", "--", "--config=x"], "IMAGE"),
    ("gke.sh", ["delete"], "WORKLOAD"),
    ("skypilot.sh", ["--", "--config=x"], "BUCKET"),
  ],
)
def test_a_missing_setting_is_named(name, command, setting, checkout, tools, tmp_path):
  rest = {k: v for k, v in SETTINGS.items() if k != setting}
  done = _script(name, checkout, *command, **rest, PATH=tools)
  assert done.returncode == 2 and done.stderr.count("\n") == 1
  assert done.stderr.startswith(f"{setting} is not set: export {setting}=... with ")
  assert not _calls(tmp_path)


@pytest.mark.parametrize(
  ("name", "command"),
  [
    ("tpu_vm.sh", []),
    ("tpu_vm.sh", ["start"]),
    ("tpu_vm.sh", ["run"]),
    ("gke.sh", []),
    ("gke.sh", ["run"]),
    ("gke.sh", ["run", "--"]),
    ("slurm.sh", ["--nodes=2"]),
    ("skypilot.sh", ["--gpus=H100:8", "--"]),
    ("multiprocess.sh", []),
    ("multiprocess.sh", ["--config=configs/tiny.py"]),
    ("multiprocess.sh", ["0"]),
  ],
)
def test_a_command_that_says_too_little_is_refused(name, command, checkout, tools, tmp_path):
  done = _script(name, checkout, *command, **SETTINGS, PATH=tools)
  assert done.returncode == 2 and done.stderr.count("\n") == 1
  assert f"launch/{name}" in done.stderr or "Flags of crate_jax.main are missing" in done.stderr
  assert not _calls(tmp_path)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_dry_run_prints_what_would_be_called(name, ready, tools, tmp_path):
  """Printed without any tool, and called with the stand-ins: the same words."""
  before, tool = LAUNCHERS[name]
  bare = _no_tools(tmp_path)
  dry = _printed(_script(name, ready, "--dry_run", *before, *FLAGS, **SETTINGS, PATH=bare))
  assert not (ready / "runs").exists()
  done = _script(name, ready, *before, *FLAGS, **SETTINGS, PATH=tools)
  assert done.returncode == 0, done.stderr
  assert _calls(tmp_path) == [command for command in dry if command[0] == tool]


def _dry(name, checkout, *arguments, **settings):
  return _printed(_script(name, checkout, "--dry_run", *arguments, **SETTINGS | settings))


def test_tpu_vm_reaches_every_worker(checkout):
  setup = _dry("tpu_vm.sh", checkout, "setup", BUCKET="b", PROJECT="p")
  assert setup[0] == ["git", "bundle", "create", "crate_jax.bundle", "HEAD"]
  assert setup[1][4:8] == ["scp", "crate_jax.bundle", "pod one:crate_jax.bundle", "--worker=all"]
  commands = [*setup[1:]]
  for command in (["run", *FLAGS], ["logs"], ["stop"]):
    commands += _dry("tpu_vm.sh", checkout, *command, PROJECT="p")
  for command in commands:
    assert command[:4] == ["gcloud", "compute", "tpus", "tpu-vm"]
    assert command[4] in ("scp", "ssh") and "--worker=all" in command
    assert command[-2:] == ["--zone=z", "--project=p"]
  words = [word for command in commands for word in command]
  remote = [w.removeprefix("--command=") for w in words if w.startswith("--command=")]
  assert remote[0].endswith("launch/worker.sh setup b")
  assert shlex.split(remote[1]) == ["crate_jax/launch/worker.sh", "start", *FLAGS]
  assert remote[2:] == ["crate_jax/launch/worker.sh logs", "crate_jax/launch/worker.sh stop"]


def test_tpu_vm_creates_and_deletes(checkout):
  common = ["gcloud", "compute", "tpus", "tpu-vm"]
  type_and_version = ["--accelerator-type=v5litepod-16", "--version=v2"]
  assert _dry("tpu_vm.sh", checkout, "create", "--spot") == [
    [*common, "create", "pod one", *type_and_version, "--spot", "--zone=z"]
  ]
  assert _dry("tpu_vm.sh", checkout, "delete") == [[*common, "delete", "pod one", "--zone=z"]]


def test_tpu_vm_sends_the_commit(checkout, tools, tmp_path):
  """What arrives on a worker is the commit, by the commands that are sent there."""
  git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(checkout)]
  for command in (["init", "-q"], ["add", "launch"], ["commit", "-q", "-m", "first"]):
    subprocess.run([*git, *command], check=True, timeout=120)
  worker = tmp_path / "worker"
  worker.mkdir()
  _executable(  # scp copies, ssh runs the command there
    tmp_path / "tools" / "gcloud",
    f"#!/bin/bash\ncd '{worker}' || exit\n"
    'case "$4" in scp) cp "$5" crate_jax.bundle ;; ssh) bash -c "${7#--command=}" ;; esac\n',
  )
  (checkout / "launch" / "worker.sh").write_text("exit 1\n")
  done = _script("tpu_vm.sh", checkout, "setup", **SETTINGS, PATH=tools)
  assert done.returncode == 1 and done.stderr.count("\n") == 1
  assert "commit them first" in done.stderr
  _executable(checkout / "launch" / "worker.sh", '#!/bin/bash\necho "on the worker: $*"\n')
  subprocess.run([*git, "commit", "-q", "-a", "-m", "second"], check=True, timeout=120)
  for _ in range(2):  # a second time changes nothing
    done = _script("tpu_vm.sh", checkout, "setup", **SETTINGS | {"BUCKET": ""}, PATH=tools)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "on the worker: setup\n"
  here, there = (
    subprocess.check_output(["git", "-C", str(folder), "rev-parse", "HEAD"], timeout=120)
    for folder in (checkout, worker / "crate_jax")
  )
  assert here == there


STOPPABLE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(143)))
print(sys.argv[1:], flush=True)
time.sleep(60)
"""


def _until(true):
  end = time.time() + 120
  while not true():
    assert time.time() < end
    time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="worker.sh is for TPU VMs and reads /proc")
def test_a_worker_trains_detached_until_it_is_stopped(ready):
  (ready / "stub.py").write_text(STOPPABLE)
  log = ready / "runs" / "worker.log"
  done = _script("worker.sh", ready, "start", *FLAGS)  # returns though the run holds no pipe of it
  assert done.returncode == 0, done.stderr
  _until(lambda: log.exists() and "[" in log.read_text())
  again = _script("worker.sh", ready, "start", *FLAGS)
  assert again.returncode == 1 and "training is running already" in again.stderr
  assert "SIGTERM sent" in _script("worker.sh", ready, "stop").stdout
  _until(lambda: "exit code" in log.read_text())
  words, saved, ended = log.read_text().splitlines()
  assert words == str(["crate_jax.main", *FLAGS]) and saved == "saved"
  assert ended.endswith("ended with exit code 143")
  assert "no training is running" in _script("worker.sh", ready, "stop").stdout


def test_gke_restarts_and_hands_on_sigterm(checkout):
  (command,) = _dry("gke.sh", checkout, "run", "--spot", "--", *FLAGS, PROJECT="p")
  where = ["--cluster=c", "--zone=z", "--project=p"]
  assert command[:3] == ["xpk", "workload", "create"] and command[-3:] == where
  assert {"--workload=w", "--tpu-type=v5litepod-16", "--spot"} < set(command)
  assert {"--docker-image=host/image:1", "--max-restarts=10"} < set(command)
  assert "--termination-grace-period-seconds=120" in command
  (inner,) = [c.removeprefix("--command=") for c in command if c.startswith("--command=")]
  assert shlex.split(inner) == ["exec", "python", "-m", "crate_jax.main", *FLAGS]


def test_gke_manages_cluster_image_and_runs(checkout):
  where = ["--cluster=c", "--zone=z"]
  cluster, storage = _dry("gke.sh", checkout, "create", "--spot", BUCKET="b")
  assert cluster[:4] == ["xpk", "cluster", "create", "--tpu-type=v5litepod-16"]
  assert "--spot" in cluster
  assert storage[:3] == ["xpk", "storage", "attach"] and "--mount-point=/bucket" in storage
  build, push = _dry("gke.sh", checkout, "build")
  assert build[:4] == ["docker", "build", "--build-arg", "EXTRAS=tpu"]
  assert build[-2:] == ["host/image:1", "."]
  assert push == ["docker", "push", "host/image:1"]
  assert _dry("gke.sh", checkout, "list") == [["xpk", "workload", "list", *where]]
  (delete,) = _dry("gke.sh", checkout, "delete")
  assert delete == ["xpk", "workload", "delete", "--workload=w", *where]
  assert _dry("gke.sh", checkout, "delete_cluster") == [["xpk", "cluster", "delete", *where]]
  logs = _dry("gke.sh", checkout, "logs")[1]
  assert logs[:3] == ["kubectl", "logs", "--follow"] and logs[-1].endswith("jobset-name=w")


def test_slurm_submits(checkout):
  setup, folder, command = _dry("slurm.sh", checkout, "--nodes=2", "--comment=a b", "--", *FLAGS)
  assert setup == ["env", "EXTRAS=", "bash", "launch/setup.sh"]
  assert folder == ["mkdir", "-p", "runs"]
  assert command == ["sbatch", "--nodes=2", "--comment=a b", "launch/slurm.sbatch", *FLAGS]


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (137, False), (143, True)])
def test_slurm_requeues_what_was_stopped(code, requeued, checkout, tools, tmp_path):
  _executable(
    tmp_path / "tools" / "srun",
    f"#!/bin/bash\nprintf '%s\\0' srun \"$@\" >'{tmp_path}'/call.0\nexit {code}\n",
  )
  done = _script("slurm.sbatch", checkout, *FLAGS, PATH=tools, SLURM_JOB_ID="77")
  assert done.returncode == code
  step, *rest = _calls(tmp_path)
  assert step[0] == "srun" and "--kill-on-bad-exit=0" in step  # some may still save
  assert step[-len(FLAGS) - 3 :] == [".venv/bin/python", "-m", "crate_jax.main", *FLAGS]
  assert rest == ([["scontrol", "requeue", "77"]] if requeued else [])


def test_slurm_warns_the_tasks_before_the_limit():
  text = (conftest.ROOT / "launch" / "slurm.sbatch").read_text()
  options = {line for line in text.splitlines() if line.startswith("#SBATCH ")}
  wanted = ("--signal=TERM@120", "--requeue", "--open-mode=append")
  assert {f"#SBATCH {option}" for option in wanted} < options
  assert "trap " not in text.replace("no trap in", "")


def _sky_job():
  return yaml.safe_load((conftest.ROOT / "launch" / "skypilot.yaml").read_text())


@pytest.mark.parametrize(("nodes", "rank"), [(1, 0), (3, 2)])
def test_skypilot_runs_on_every_node(nodes, rank, ready):
  """What its machines run, with the environment that SkyPilot gives them."""
  (command,) = _dry("skypilot.sh", ready, "--num-nodes=3", "--", *FLAGS)
  assert command[:3] == ["sky", "jobs", "launch"]
  assert command[-2:] == ["--num-nodes=3", "launch/skypilot.yaml"]
  given = dict(c.removeprefix("--env=").split("=", 1) for c in command if c.startswith("--env="))
  assert given.keys() == _sky_job()["envs"].keys() and given["BUCKET"] == "s3://b"
  (ready / "stub.py").write_text("import sys; print(*sys.argv[2:], sep='\\n')")
  node = {"SKYPILOT_NUM_NODES": str(nodes), "SKYPILOT_NODE_RANK": str(rank)}
  node["SKYPILOT_NODE_IPS"] = "\n".join(["10.0.0.7", "10.0.0.9", "10.0.0.8"][:nodes])
  done = subprocess.run(
    ["bash", "-c", _sky_job()["run"]],
    capture_output=True, text=True, timeout=120, cwd=ready, env=ENVIRONMENT | given | node,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  by_hand = ["--coordinator=10.0.0.7:8476", f"--num_processes={nodes}", f"--process_id={rank}"]
  assert done.stdout.splitlines() == FLAGS + (by_hand if nodes > 1 else [])


def test_skypilot_reads_the_job():
  sky = pytest.importorskip("sky", reason="SkyPilot is not installed: pip install skypilot")
  given = [("BUCKET", "gs://a-bucket"), ("FLAGS", "--config=x")]
  task = sky.Task.from_yaml_config(_sky_job(), env_overrides=given)
  (resources,) = task.resources
  assert resources.job_recovery["max_restarts_on_errors"] == 3
  assert resources.job_recovery["recover_on_exit_codes"] == [143]
  assert task.storage_mounts["/bucket"].source == "gs://a-bucket"
