"""Every command and every example of README.md and BUILD.md runs; a command of a form unknown here fails.

Trainings are cut short by an override. What would install, clone or time for minutes is checked without doing it.
"""

import hashlib
import itertools
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[2]
DOCUMENTS = ("README.md", "BUILD.md")
UMAP = ("--config.data.num_train=100", "--config.learner.num_epochs=20")
QUICK = {  # by how the config's name begins
    "ppo": ("--config.learner.total_env_steps=4096", "--config.learner.num_evaluation_episodes=4"),
    "dqn": ("--config.learner.total_env_steps=3000", "--config.learner.num_evaluation_episodes=4"),
    "pqn": ("--config.learner.total_env_steps=4096", "--config.learner.num_evaluation_episodes=4"),
    "reinforce": ("--config.learner.num_updates=2", "--config.learner.num_evaluation_episodes=4"),
    "tabular": ("--config.learner.total_env_steps=20000",),
    "value": (),
    "mlp": ("--config.learner.num_epochs=1",),
    "vae": ("--config.learner.num_epochs=1",),
    "gan": ("--config.run.num_updates=500",),
    "diffusion": ("--config.run.num_updates=250",),
    "svm": ("--config.search.gammas=(0.1,)", "--config.search.prices=(1.0, 3.0)", "--config.run.num_updates=2"),
    "pca": (),
    "tsne": (
        "--config.data.num_train=100",
        "--config.learner.num_early_iterations=5",
        "--config.learner.num_iterations=20",
        "--config.search.perplexities=()",
    ),
    "parametric_tsne": ("--config.learner.num_epochs=5",),
    "umap": UMAP,
    "embedding_comparison": UMAP,
    "parametric_umap": ("--config.data.num_train=100", "--config.learner.num_updates=20"),
    "transformer": ("--config.learner.num_updates=50", "--config.learner.num_features=16"),
}
SHORT = r"python -m experiments\.train --config=configs/ppo_cartpole\.py --workdir=\S+"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:make|python3?|pip|git|\S*/python) [^`\n]+)`")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def blocks(document):
    """The language and the text of every fenced block."""
    path = ROOT / document
    return FENCE.findall(path.read_text()) if path.exists() else []


def shell_lines(text):
    """The commands of a block: comments dropped, continued lines joined."""
    lines = (line.strip() for line in text.replace("\\\n", " ").splitlines())
    return [part.strip() for line in lines if line and line[0] != "#" for part in line.split("&&")]


def commands(document):
    """Every command of a document, in blocks and within the text, once each."""
    prose = FENCE.sub("", (ROOT / document).read_text()) if (ROOT / document).exists() else ""
    found = [line for language, text in blocks(document) if language == "bash" for line in shell_lines(text)]
    return list(dict.fromkeys(found + INLINE.findall(prose)))


def flag(words, name):
    """The value of `--name=value` among the words of a command, or None."""
    return next((word.partition("=")[2] for word in words if word.startswith(f"--{name}=")), None)


def quick(words):
    """The overrides that make a command's config quick."""
    config = pathlib.Path(flag(words, "config")).stem
    (found,) = (flags for name, flags in QUICK.items() if f"{config}_".startswith(f"{name}_"))
    return found


class Shell:
    """What each form of command is allowed to be, and how it is run."""

    def __init__(self, programs, once):
        self._programs, self._once = programs, once

    def check(self, line):
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"\w+=\S*", words[0]):
            words = words[1:]
        program = pathlib.Path(words[0]).name.replace("python3", "python")
        if program == "python" and words[1] == "-m":
            program, words = words[2], words[2:]
        if program == "python" and words[1] == "-c":
            program = "python_c"
        words = [word for word in words if word != "&"]  # beside the next one
        form = getattr(self, "_" + program.replace(".", "_"), None)
        assert form, f"{line!r} is of a form that no test runs"
        form(words[1:])

    def train(self, words):
        """Run a training once, however many commands differ from it only in the workdir."""
        platform = flag(words, "platform")
        if platform not in (None, "any", jax.default_backend()):
            pytest.skip(f"there is no {platform} here")
        assert flag(words, "workdir")
        if flag(words, "coordinator_address") or any("=DIR" in word for word in words):
            return self._of_other_machines(words)
        flags = [word for word in words if not word.startswith("--workdir=")]
        name = hashlib.sha256(" ".join(flags).encode()).hexdigest()[:12]
        go = lambda folder: self._programs.run("train", *flags, *quick(words), f"--workdir={folder}")  # noqa: E731
        folder, done = self._once(f"document_{name}", go)
        assert (done.returncode, done.stderr) == (0, "")
        assert (folder / "summary.json").exists()
        assert (folder / "profile").exists() == ("--profile" in flags)
        return folder, done

    _experiments_train = train

    def _of_other_machines(self, words):
        """A command for several processes, or for data that are not here: its flags and its config exist."""
        known = self._programs.run("train", "--helpshort").stdout
        for word in words:
            name = word.removeprefix("--").partition("=")[0]
            assert name.startswith("config.") or re.search(rf"--(\[no\])?{name}\b", known), word
        assert (ROOT / flag(words, "config")).is_file()

    def _srun(self, words):
        self.check(shlex.join(words))

    def _experiments_sweep(self, words):
        flags = [word for word in words if not word.startswith(("--workdir=", "--out=", "--seeds="))]
        few = ["--seeds=2", *(["--points=3"] if flag(words, "points") else [])]
        name = hashlib.sha256(" ".join(flags).encode()).hexdigest()[:12]
        go = lambda folder: self._programs.run("sweep", *flags, *quick(words), *few, f"--out={folder}")  # noqa: E731
        folder, done = self._once(f"document_sweep_{name}", go)
        assert (done.returncode, done.stderr) == (0, "")
        assert (folder / "sweep.jsonl").read_text()
        assert (folder / "sweep.png").exists()

    def _experiments_evaluate(self, words):
        workdir = flag(words, "workdir")
        known = [shlex.split(line) for document in DOCUMENTS for line in commands(document) if ".train" in line]
        training = [command for command in known if flag(command, "workdir") == workdir]
        assert training, f"no command in the documents makes {workdir}"
        folder, _ = self.train(training[0][training[0].index("experiments.train") + 1 :])
        rest = [word for word in words if not word.startswith("--workdir=")]
        done = self._programs.run("evaluate", f"--workdir={folder}", *rest)
        assert (done.returncode, done.stderr) == (0, "")
        assert "episode_return" in done.stdout

    def _experiments_communication(self, words):
        done = self._programs.run("communication", *words, *quick(words))
        assert (done.returncode, done.stderr) == (0, "")
        assert "all-reduce" in done.stdout

    def _experiments_benchmark(self, words):
        words = [word for word in words if not word.startswith(("--out=", "--purejaxrl=", "--mnist="))]
        name = hashlib.sha256(" ".join(words).encode()).hexdigest()[:12]
        go = lambda folder: self._programs.run(  # noqa: E731
            "benchmark", *words, "--sizes=tiny", "--repeats=3", f"--out={folder}"
        )
        folder, done = self._once(f"document_benchmark_{name}", go)
        assert (done.returncode, done.stderr if "--peers" not in words else "") == (0, "")
        assert (folder / "results.jsonl").read_text()

    def _experiments_results(self, words):
        workdir = flag(words, "record")
        if workdir is None:  # test_results holds README.md to what this command writes
            return
        known = [shlex.split(line) for document in DOCUMENTS for line in commands(document) if ".train" in line]
        training = next(command for command in known if flag(command, "workdir") == workdir)
        folder, _ = self.train(training[training.index("experiments.train") + 1 :])
        readme, records = folder.parent / "README.md", folder.parent / "records"
        shutil.copy(ROOT / "README.md", readme)
        done = self._programs.run("results", f"--record={folder}", f"--readme={readme}", f"--directory={records}")
        assert (done.returncode, done.stderr) == (0, "")
        assert "return" in (records / "runs.jsonl").read_text()

    def _experiments_truncation_bias(self, words):
        words = [word for word in words if not word.startswith(("--out=", "--seeds="))]
        go = lambda folder: self._programs.run(  # noqa: E731
            "truncation_bias", *words, "--seeds=1", "--learners=reinforce", f"--out={folder}"
        )
        folder, done = self._once("document_truncation_bias", go)
        assert (done.returncode, done.stderr) == (0, "")
        assert (folder / "truncation_bias.png").exists()

    def _pytest(self, words):
        command = [sys.executable, "-m", "pytest", *words, "--collect-only", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-2000:]

    def _make(self, words):
        done = subprocess.run(["make", "--dry-run", *words], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        for line in done.stdout.splitlines():
            if "-m experiments." in line:
                self.check(line)

    def _pip(self, words):
        assert words[0] == "install"
        names = {re.match(r"[\w-]+", requirement)[0] for requirement in PROJECT["dependencies"]}
        words = words[1:]
        while words:
            word, *words = words
            if word in ("-c", "--constraint", "-r", "--requirement"):
                assert (ROOT / words.pop(0)).is_file()
            elif not word.startswith("-"):
                place, _, extras = word.rstrip("]").partition("[")
                assert place in {".", "pip", PROJECT["name"]} | names
                assert not extras or set(extras.split(",")) <= set(PROJECT["optional-dependencies"])

    def _venv(self, words):
        assert words == [".venv"]

    def _source(self, words):
        assert words == [".venv/bin/activate"]

    def _git(self, words):
        assert words[0] == "clone"

    def _cd(self, words):
        assert words[0] == PROJECT["name"] or (ROOT / words[0]).is_dir()

    def _export(self, words):
        name, _, value = words[0].partition("=")
        assert value
        assert not name.startswith("JAX_") or hasattr(jax.config, name.lower())

    def _kill(self, words):
        name = words[0].lstrip("-").removeprefix("SIG")
        assert int(name) in list(signal.Signals) if name.isdigit() else f"SIG{name}" in signal.Signals.__members__

    def _tensorboard(self, words):
        assert flag(words, "logdir") or "--logdir" in words
        pytest.skip("TensorBoard itself is not among the dependencies: the events are tested without it")

    def _python_c(self, words):
        done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def shell(programs, once):
    return Shell(programs, once)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_documents_have_commands_and_examples(document):
    assert commands(document)
    assert {"bash", "python"} <= {language for language, _ in blocks(document)}


def parameters():
    """Every command with its document; of trainings all but one form are left to the slow tests.

    `test_configs` builds and traces every config in the fast ones.
    """
    for document in DOCUMENTS:
        for line in commands(document):
            makes = next(
                (c for c in commands(document) if flag(c.split(), "workdir") == flag(line.split(), "workdir")), ""
            )
            is_long = line == "make demo" or ("experiments." in line and not re.fullmatch(SHORT, makes or line))
            yield pytest.param(line, marks=pytest.mark.slow if is_long else (), id=f"{document}: {line}"[:90])


@pytest.mark.parametrize("command", list(parameters()))
def test_every_command_runs(shell, command):
    shell.check(command)


EXAMPLES = [(document, text) for document in DOCUMENTS for language, text in blocks(document) if language == "python"]


@pytest.mark.parametrize(
    "text", [text for _, text in EXAMPLES], ids=[f"{document}{k}" for k, (document, _) in enumerate(EXAMPLES)]
)
def test_every_example_runs_and_prints_what_it_says(text, capsys):
    exec(compile(text, "example", "exec"), {"__name__": "__main__"})
    said = re.findall(r"^print\(.*\)  # (.*)$", text, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == said


@pytest.mark.parametrize("document", DOCUMENTS)
def test_output_that_is_shown_is_what_the_command_before_it_prints(shell, document):
    found = blocks(document)
    for (language, text), (next_language, output) in itertools.pairwise(found):
        lines = shell_lines(text) if language == "bash" else []
        if next_language or len(lines) != 1 or "experiments.train" not in lines[0]:
            continue
        words = shlex.split(lines[0])
        folder, done = shell.train(words[words.index("experiments.train") + 1 :])
        printed = done.stdout.replace(str(folder), flag(words, "workdir"))
        for line in output.splitlines():
            assert re.search(re.sub(r"[\d.,]*\d", r"[\\d.,]+", re.escape(line).replace("\\.", ".")), printed), line


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_command_hides_in_a_block_that_is_not_bash(document):
    for language, text in blocks(document):
        assert language in ("", "bash", "python", "text", "toml", "json"), language
        if language not in ("bash", "python"):
            assert not re.search(r"^\s*\$? ?(make|python3?|pip|git|cd|export|\S*bin/\w+) ", text, re.MULTILINE)


@pytest.mark.parametrize("line", ["curl example.org", "python setup.py", "make nothing_of_this_name", "git push"])
def test_a_command_of_another_form_fails(shell, line):
    with pytest.raises(AssertionError):
        shell.check(line)


def test_the_documents_name_no_place_of_their_author():
    for document in DOCUMENTS:
        assert os.path.expanduser("~") not in (ROOT / document).read_text()
