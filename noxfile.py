"""Sessions for developers: `nox -l` lists them, `nox -s lint types` runs two. `make test` needs none of this."""

import shutil
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True

ROOT = Path(__file__).parent
PLUGINS = [str(path.parent) for path in sorted(ROOT.glob("*/*/pyproject.toml"))]
DISTS = [str(ROOT / "core"), *PLUGINS, str(ROOT / "conformance")]
CLIENTS = ("litellm==1.83.0", "langchain-openai==1.7.3")
FUZZER = "schemathesis==4.32.5"
TORCH_XLA_BESIDE = (
    *("jax", "transformers", "tokenizers", "safetensors", "huggingface_hub", "numpy", "pluggy", "msgspec", "jinja2"),
    *("typer", "rich", "setuptools", "pytest", "pytest-timeout", "hypothesis"),
)
NODE_CLIENT = "openai@6.49.0"
SERVER_TESTS = "plugins/server/tests"
GPUS = [
    *("cuda:80", "cuda:90", "cuda:100", "cuda:120"),
    *("hip:gfx90a", "hip:gfx942", "hip:gfx950", "hip:gfx1100"),
]
KEEP_ALL = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
CPP_SOURCES = [str(path) for pattern in ("*.cpp", "*.h") for path in sorted((ROOT / "kernels").rglob(pattern))]


def install_quire(session: nox.Session) -> None:
    """Install torch first, so that the build isolation of nothing pulls another, then every distribution here."""
    session.install("--constraint", "constraints.txt", "torch", "setuptools")
    editable = [argument for dist in DISTS for argument in ("--editable", dist)]
    session.install("--no-build-isolation", "--constraint", "constraints.txt", *editable)
    session.install("--constraint", "constraints.txt", "--requirement", "requirements-test.txt")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style: ruff for Python, clang-format for C++ where it is installed."""
    session.install("--constraint", "constraints.txt", "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    if CPP_SOURCES and shutil.which("clang-format"):
        session.run("clang-format", "--dry-run", "--Werror", *CPP_SOURCES, external=True)
    else:
        session.warn("clang-format is not installed: C++ is not checked")


@nox.session
def types(session: nox.Session) -> None:
    """Check types: mypy, strict in core. Nothing is compiled for it."""
    session.install("--constraint", "constraints.txt", "torch", "setuptools", "mypy")
    session.install(
        *("--no-build-isolation", "--constraint", "constraints.txt", "--editable", "core", "--editable", "conformance")
    )
    session.run("mypy")


@nox.session(python=["3.11", "3.12"])
def tests(session: nox.Session) -> None:
    """Run every test, the slow ones too."""
    install_quire(session)
    session.run("pytest", "-n", "2", "--dist", "loadfile", *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
def reference(session: nox.Session) -> None:
    """Hold the reference backend to the op records and the engine's tests: no other backend is involved."""
    install_quire(session)
    others = ("--deselect", "tests/engine/test_resting.py::TestSleep")  # the reference cannot sleep
    allowed = {"QUIRE_BACKENDS_ALLOW": "reference,null"}
    session.run("pytest", "tests/ops", "tests/engine", *others, *session.posargs, env=allowed)


@nox.session
def conformance(session: nox.Session) -> None:
    """Hold the backends that can run here to the suite; keep their reports, which the support matrix is drawn from."""
    install_quire(session)
    emulated = ("device=cpu", "compile=lazily")
    # Tests open engines of the same shapes again and again: XLA finds what it has compiled for an earlier one.
    once = {"JAX_COMPILATION_CACHE_DIR": session.create_tmp(), **KEEP_ALL}
    for backend, *options in (
        ("reference", "max_in_flight=2"),
        ("cpu-x86", "threads=1"),
        ("tpu", *emulated),
        ("neuron", *emulated),
    ):
        report = f"conformance/reports/{backend}.json"
        given = [argument for option in options for argument in ("--backend-option", option)]
        session.run("quire", "conformance", "--backend", backend, *given, "--report", report, env=once)
    session.run("python", "docs/generate.py")


@nox.session
def resources(session: nox.Session) -> None:
    """Compile the Triton kernels for GPUs that are not here, and keep what the compilers say of them."""
    session.install("--constraint", "constraints.txt", "torch", "setuptools")
    session.install("--no-build-isolation", "--editable", "core", "--editable", "kernels/triton[interpreter]")
    with (ROOT / "kernels/triton/reports/resources.jsonl").open("w") as report:
        session.run("python", "-m", "quire_kernels_triton.resources", "--json", *GPUS, stdout=report)
    session.notify("docs")


@nox.session
def ppc64le(session: nox.Session) -> None:
    """Hold the POWER kernels to the suite, cross-compiled and emulated; keep the report. Fails without the tools."""
    install_quire(session)
    arguments = session.posargs or ["--report", "conformance/reports/ppc64le.json"]
    session.run("python", "backends/ppc64le/tests/check_emulated.py", *arguments)
    session.run("python", "docs/generate.py")


@nox.session
def ahead(session: nox.Session) -> None:
    """Compile the TPU's kernels for chips that are not here, and see too large a tile refused. A large download."""
    install_quire(session)
    session.install("--constraint", "constraints.txt", "libtpu==0.0.52")
    environment = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    session.run("python", "kernels/xla/tests/ahead/compile_for_tpus.py", env=environment)


@nox.session
def xla(session: nox.Session) -> None:
    """Let torch_xla run the tpu backend on its CPU device, in an environment of its own: it needs an older torch."""
    session.install("torch==2.9.1", "torch_xla==2.9.0")  # 7 GB: there is no build of it without CUDA's libraries
    session.install("--constraint", "constraints.txt", *TORCH_XLA_BESIDE)
    ours = ("core", "kernels/xla", "backends/tpu", "plugins/demo-model", "conformance")
    editable = [argument for dist in ours for argument in ("--editable", str(ROOT / dist))]
    session.install("--no-build-isolation", "--no-deps", *editable)  # the core asks for torch 2.11
    session.run("pytest", "backends/tpu/tests", *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
def mutations(session: nox.Session) -> None:
    """Run the suite on every seeded bug and report what caught each, in conformance/reports."""
    install_quire(session)
    session.run(
        "python", "conformance/tests/seeded/mutations.py", *(session.posargs or ["conformance/reports/mutations.md"])
    )


@nox.session
def clients(session: nox.Session) -> None:
    """Let the clients that people have talk to the server unmodified: OpenAI's, Anthropic's and those built on them."""
    install_quire(session)
    session.install("--constraint", "constraints.txt", *CLIENTS)
    node = session.create_tmp()
    session.run("npm", "install", "--silent", "--prefix", node, NODE_CLIENT, external=True)
    names = ("openai_client", "messages", "responses", "retries", "litellm", "langchain", "node", "vllm_bench")
    tests = [f"{SERVER_TESTS}/test_{name}.py" for name in names]
    left_open = ["-W", "ignore::ResourceWarning", "-W", "ignore::pytest.PytestUnraisableExceptionWarning"]  # litellm's
    session.run("pytest", *left_open, *tests, *session.posargs, env={"NODE_PATH": f"{node}/node_modules"})


@nox.session
def fuzz(session: nox.Session) -> None:
    """Send the server 5,000 cases made from its own OpenAPI, and the requests that mean no good."""
    install_quire(session)
    session.install("--constraint", "constraints.txt", FUZZER)
    tests = [f"{SERVER_TESTS}/test_fuzz.py", f"{SERVER_TESTS}/test_hostile.py"]
    session.run("pytest", *tests, *session.posargs, env={"FUZZ_EXAMPLES": "220"})


@nox.session
def soak(session: nox.Session) -> None:
    """Let a thousand streams come at once, and hundreds come and go for minutes (SOAK_S says how many seconds)."""
    install_quire(session)
    session.run("pytest", "-m", "slow", f"{SERVER_TESTS}/test_load.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Write docs/reference anew and run the tutorials' code."""
    install_quire(session)
    session.run("python", "docs/generate.py")
    session.run("pytest", "tests/docs", "tests/repo", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure throughput on the small built-in shape, beside the machine's own limits."""
    install_quire(session)
    session.run("quire", "bench", "throughput", *(session.posargs or ["r100m"]))
