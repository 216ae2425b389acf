"""One command from a bare checkout: ``python3 -m solver_server demo`` (or test, serve, solve, ...).

Makes the environment ``.venv`` in the checkout, installs the project into it, and hands over to the
``megasam`` command or to the tests inside it. Standard library only: nothing is installed yet when
this file runs. It keeps to the syntax of Python 3.6, so that an old Python is told what is wrong.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

OLDEST_PYTHON = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
VENV = Path(os.environ.get("MEGASAM_VENV") or ROOT / ".venv").absolute()
STAMP = VENV / "megasam-setup.json"
LOG = VENV / "megasam-setup.log"
EXTRAS = {"server", "test"}
# What a command needs beyond these. Several GB, so they are left out until somebody asks.
MORE_EXTRAS = {"test": {"networks", "training", "window"}, "window": {"window"}}
WINDOWS = os.name == "nt"
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

USAGE = """usage: python3 -m solver_server COMMAND [ARGUMENTS...]

  demo     render a short clip, solve it, and compare with the ground truth (also: demo PLATE)
  solve    solve a plate:  solve clip.mp4 --out shot/
  serve    run the solver server; also: status, keys, gc, farm
  checkpoints  which networks are there, their licences; import and verify files
  doctor   what is installed, which engine would run, and what to do about each lack
  test     run the test suite; arguments go to pytest, e.g.  test -k protocol
  ...      any other command or option of `megasam`, e.g.  solve --help

The first run makes the environment in .venv (or in $MEGASAM_VENV) and downloads what it needs."""

# Run by the environment's Python: the project imports, and its packages have all their files.
COMPLETE_CHECK = """
import re
from importlib import metadata
import megasam_server
for requirement in metadata.requires("megasam-maya"):
    extra = re.search(r"extra == .(\\w+)", requirement)
    if extra is None or extra[1] in extras:
        package = metadata.distribution(re.match(r"[\\w.-]+", requirement)[0])
        for file in package.files:
            assert file.suffix == ".pyc" or package.locate_file(file).exists(), file
"""

# Tried in this order on the log of a failed installation: the first match is the likeliest cause.
INSTALL_ADVICE = (
    (
        ("No space left", "Errno 28", "not enough space"),
        "The disk is full. The environment takes about 1.2 GB, and 7 GB with the networks that"
        " `test` installs; free some, or set MEGASAM_VENV to a folder on a larger disk.",
    ),
    (
        ("CERTIFICATE_VERIFY_FAILED", "SSLError", "SSLCertVerificationError"),
        "The package index's certificate was refused. Behind a company proxy, point PIP_CERT at"
        " the company's certificate file.",
    ),
    (
        ("ProxyError", "NewConnectionError", "NameResolutionError", "ConnectTimeoutError"),
        "No connection to the package index. Check the network, or set HTTPS_PROXY (proxy) or"
        " PIP_INDEX_URL (a mirror of your studio).",
    ),
    (
        ("ReadTimeoutError", "Read timed out", "IncompleteRead", "ConnectionResetError"),
        "The connection broke during a download. Run the same command again: finished downloads"
        " are kept.",
    ),
    (
        ("No matching distribution", "ResolutionImpossible", "Could not find a version"),
        "A package has no build for this Python or system. 64-bit Python 3.11 to 3.13 on Linux or"
        " Windows has them all; run this command with one of those.",
    ),
    (
        ("Permission denied", "Access is denied", "Errno 13", "WinError 5"),
        "A file could not be written. Close programs that use the environment, or set MEGASAM_VENV"
        " to a folder of your own.",
    ),
)


class SetupError(Exception):
    """What is wrong and what to do, for the person at the terminal."""


def main(arguments):
    """Set up, then run one command; returns its exit code."""
    if sys.version_info < OLDEST_PYTHON:
        raise SetupError(_python_too_old())
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    try:
        with _one_at_a_time():
            make_environment(EXTRAS | MORE_EXTRAS.get(arguments[0], set()))
    except OSError as error:
        raise SetupError(_cannot_write(error)) from error
    if arguments[0] == "test":
        command = [str(_tool("python")), "-m", "pytest", *arguments[1:]]
        return hand_over(command, cwd=ROOT)
    return hand_over([str(_tool("megasam")), *arguments])


def make_environment(extras):
    """Bring ``.venv`` to what this checkout and ``extras`` need: kept when good, else updated or
    made anew. Extras that are installed already stay."""
    found = _read_stamp()
    listed = found.get("extras") if found else None
    installed = set(listed) if isinstance(listed, list) else set()
    wanted = {
        "checkout": str(ROOT),
        "extras": sorted(extras | installed),
        "pyproject": hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest(),
    }
    started = time.monotonic()
    if found is None and not STAMP.exists() and _runs("import pip"):
        say(f"Using the environment that is already in {VENV}")
    elif found is None:
        _create_venv()
    elif found.get("checkout") != str(ROOT):
        say("The checkout has moved since its environment was made")
        _create_venv()
    elif not (_tool("megasam").exists() and _runs(f"extras = {installed}" + COMPLETE_CHECK)):
        say(f"The environment in {VENV} is damaged; making it again")
        _create_venv()
    elif found == wanted:
        return
    elif found.get("pyproject") != wanted["pyproject"]:
        say("pyproject.toml has changed since the last run")
    # A cut-off installation leaves this mark and no stamp: the next run makes the environment anew.
    STAMP.write_text('"installing"', encoding="utf-8")
    _install(wanted["extras"])
    finished = STAMP.with_suffix(".new")
    finished.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
    os.replace(finished, STAMP)
    say(f"Environment ready in {time.monotonic() - started:.0f} s")


def hand_over(command, cwd=None):
    """Run ``command`` in place of this process where the system can; else its exit code.

    The variables by which Maya and studio launchers aim Python at their own libraries are dropped.
    """
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "PYTHONPATH")}
    env.setdefault("PYTHONUTF8", "1")
    sys.stdout.flush()
    sys.stderr.flush()
    if not WINDOWS:
        if cwd:
            os.chdir(cwd)
        os.execve(command[0], command, env)
    # Windows has no exec: the shell would get its prompt back at once, and no exit code.
    with subprocess.Popen(command, cwd=cwd, env=env) as child:
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:
                # The console gave Ctrl-C to the child as well; it decides how to stop.
                continue


def say(text):
    """One line for the person at the terminal; stdout belongs to the command that follows."""
    print(f"[megasam setup] {text}", file=sys.stderr, flush=True)


def _tool(name):
    """A program of the environment."""
    return VENV / "Scripts" / f"{name}.exe" if WINDOWS else VENV / "bin" / name


def _read_stamp():
    """What the environment was made for; None without a stamp or after a cut-off installation."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) else None


def _runs(code):
    """Whether the environment's Python is new enough and runs ``code`` without an error."""
    check = f"import sys\nassert sys.version_info >= {OLDEST_PYTHON}\n{code}"
    try:
        done = subprocess.run([str(_tool("python")), "-I", "-"], input=check.encode(), **QUIET)
    except OSError:
        return False
    return done.returncode == 0


def _create_venv():
    """An empty environment in place of whatever lies there."""
    missing = [m for m in ("venv", "ensurepip") if importlib.util.find_spec(m) is None]
    if missing:
        raise SetupError(_no_venv_module(missing))
    say(f"Making an environment for Python {sys.version.split()[0]} in {VENV}")
    VENV.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        output = done.stdout.decode(errors="replace")
        if "ensurepip" in output:
            raise SetupError(_no_venv_module(["ensurepip"]))
        raise SetupError(f"The environment could not be made in {VENV}:\n{_tail(output)}")


def _install(extras):
    """Install the checkout with its extras; editable, so that an update is one ``git pull``."""
    size = "several GB" if "networks" in extras else "about 300 MB"
    say(f"Installing packages ({size} the first time); details in {LOG}")
    pip = [str(_tool("python")), "-I", "-m", "pip", "--disable-pip-version-check", "install"]
    pip += ["--no-input", "--progress-bar=off", "--editable", f"{ROOT}[{','.join(extras)}]"]
    with LOG.open("wb") as log:
        exit_code = _wait_with_news(
            subprocess.Popen(pip, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        )
    if exit_code != 0:
        text = LOG.read_text(encoding="utf-8", errors="replace")
        advice = next(
            (advice for signs, advice in INSTALL_ADVICE if any(sign in text for sign in signs)),
            "Run the same command again; if it fails again, the log says more.",
        )
        raise SetupError(f"Installing the packages failed:\n{_tail(text)}\n{advice}\nLog: {LOG}")


def _wait_with_news(process):
    """Exit code of ``process``; says every 15 seconds that it lives, and ends it with this one."""
    started = time.monotonic()
    try:
        while True:
            try:
                return process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                say(f"  still installing, {time.monotonic() - started:.0f} s so far")
    except BaseException:
        process.terminate()
        process.wait()
        raise


@contextlib.contextmanager
def _one_at_a_time():
    """Two commands started together make one environment: the second waits for the first."""
    lock_path = VENV.with_name(VENV.name + ".lock")
    try:
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_path.open("a+b")
    except OSError:
        if _read_stamp() is None:
            raise
        # Somebody else made the environment; this user may only run it.
        yield
        return
    with lock:
        if not _try_lock(lock):
            say("Another command is setting up this environment; waiting for it")
            while not _try_lock(lock):
                time.sleep(0.5)
        # Closing the file, or the end of this process in any manner, gives the lock back.
        yield


def _try_lock(file):
    """Take the lock on an open file; False while another process has it."""
    try:
        if WINDOWS:
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _tail(text, lines=12):
    """The last lines of a log, indented."""
    return "\n".join("    " + line for line in text.strip().splitlines()[-lines:])


def _python_too_old():
    newer = [f"python3.{minor}" for minor in range(13, OLDEST_PYTHON[1] - 1, -1)]
    found = next((name for name in newer if shutil.which(name)), None)
    what = "MegaSAM needs Python {}.{} or newer; this is {}.".format(
        *OLDEST_PYTHON, sys.version.split()[0]
    )
    if found:
        return f"{what}\n{found} is installed here: use it in place of python3."
    return f"{what}\nInstall one from python.org or your system's packages and use it instead."


def _no_venv_module(missing):
    package = "python{}.{}-venv".format(*sys.version_info)
    return (
        f"This Python ({sys.executable}) cannot make environments: no {' and no '.join(missing)}.\n"
        f"On Debian or Ubuntu: sudo apt install {package}. Elsewhere: use a complete Python, e.g."
        " from python.org."
    )


def _cannot_write(error):
    return (
        f"The environment cannot be made in {VENV}: {error.strerror or error}.\n"
        "Set MEGASAM_VENV to a folder that you may write, for instance one in your home."
    )


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as problem:
        print(f"\n{problem}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        say("Stopped. The next run starts the installation again.")
        sys.exit(130)
