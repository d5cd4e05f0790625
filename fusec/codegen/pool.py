"""Compiler processes: kernels to compile in, sealed cache entries out, on as many cores as asked.

Plain child processes work from notebooks and from scripts without a `__main__` guard, where
`multiprocessing` would run the script again. They use all cores, leave the compiler's memory behind
and have an environment of their own: what people set for Numba in their programs (`NUMBA_OPT`,
`NUMBA_DISABLE_JIT`, a `.numba_config.yaml` in the working folder) must not decide the code of
kernels that are kept for later runs. Whatever ends the work, an interrupt too, ends them.

A process that has just started takes seconds to load the compiler and to read what kernels call.
Who compiles several times says so by `kept`: the processes then wait for the next time.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from fusec.codegen.cache import discard, leave, publish, stage, sweep, unwritable, writing
from fusec.cores import cores
from fusec.errors import FusecError, reason

Progress = Callable[[str], None]
"""Called with a kernel's name when it is ready."""

# sys.path is handed over as it is: the folder that a process starts in is not to be on it
_START = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from importlib import import_module; import_module(sys.argv[1]).main()"
)
# variables of Python that say where things are; the others say how code is to behave
_PLACES = frozenset({
    *("PYTHONHOME", "PYTHONPATH", "PYTHONPLATLIBDIR", "PYTHONEXECUTABLE", "PYTHONPYCACHEPREFIX"),
    *("PYTHONUSERBASE", "PYTHONNOUSERSITE", "PYTHONSAFEPATH", "PYTHONDONTWRITEBYTECODE"),
    *("PYTHONUTF8", "PYTHONCOERCECLOCALE"),
})  # fmt: skip

MOST_SERVED = 200
"""Kernels after which a process is not kept: it remembers something of each."""
KINDS = 4
"""Kinds of processes, by compiler and environment, that wait on all cores; older ones end."""


@dataclass(frozen=True)
class Task:
    """A kernel, the cache entry it is to fill, and what else the compiler wants to know."""

    name: str
    source: str
    entry: Path
    request: dict[str, Any] = field(default_factory=dict)


def compile_all(
    compiler: str, tasks: Sequence[Task], count: int, progress: Progress | None = None
) -> None:
    """Fill the entries of all tasks, in `count` processes of the module `compiler`, in order.

    Raises FusecError naming the kernel that does not compile and the file its source is in, and
    for a cache that cannot be written. No process is left then, and after an interrupt.
    """
    if not tasks:
        return
    for folder in {task.entry.parent for task in tasks}:
        sweep(folder)
    crew = _Crew(compiler, tasks, progress)
    count = min(count, len(tasks))
    with ThreadPoolExecutor(count) as threads:
        try:
            for done in as_completed([threads.submit(crew.work) for _ in range(count)]):
                done.result()
        finally:
            crew.stop()


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Let compiler processes wait for further kernels until the end of this, of all that nest."""
    _kept.join(1)
    try:
        yield
    finally:
        _kept.join(-1)


@contextlib.contextmanager
def not_kept() -> Iterator[None]:
    """Processes of this one's own, whatever `kept` says around it."""
    users, _kept.users = _kept.users, 0
    try:
        yield
    finally:
        _kept.users = users


def environment() -> dict[str, str]:
    """This process's environment without what would change the code that is generated."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("NUMBA") and (not name.startswith("PYTHON") or name in _PLACES)
    }


class _Compiler:
    """A process, and the last line that it wrote about itself."""

    def __init__(self, command: Sequence[str], env: dict[str, str]) -> None:
        self.owner = os.getpid()
        self.served = 0
        self.complaints: deque[str] = deque(maxlen=1)
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=env,
                cwd=Path(__file__).parent,  # where Numba finds no configuration of anybody's
                start_new_session=True,  # an interrupt of the terminal is ours to hand on
            )
        except OSError as error:
            raise FusecError(f"no compiler process can be started: {reason(error)}") from None
        assert self.process.stderr
        self._reader = threading.Thread(
            target=_keep_last, args=(self.process.stderr, self.complaints), daemon=True
        )
        self._reader.start()

    def death(self) -> str:
        """How it ended, once it has."""
        self.process.wait()
        self._reader.join()
        return _death(self.process.returncode, self.complaints)

    def end(self) -> None:
        """End it, and what it has started."""
        _kill(self.process)
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):  # what a process that is gone has not read
                stream.close()  # type: ignore[union-attr]


class _Kept:
    """Processes without work, where `kept` wants them; of every command and environment its own."""

    def __init__(self) -> None:
        self.users = 0
        self._lock = threading.Lock()
        self._waiting: list[tuple[object, _Compiler]] = []

    def join(self, users: int) -> None:
        """So many users more; the last one's leaving ends what waits."""
        with self._lock:
            self.users += users
            left = self.users
        if not left:
            self.end()

    def take(self, kind: object) -> _Compiler | None:
        """One that is alive and was started in the same way, by this process."""
        with self._lock:
            if not self.users:
                return None
            for entry in reversed(self._waiting):
                known, compiler = entry
                if known == kind and compiler.owner == os.getpid():
                    self._waiting.remove(entry)
                    if compiler.process.poll() is None:
                        compiler.complaints.clear()
                        return compiler
                    compiler.end()
        return None

    def give(self, kind: object, compiler: _Compiler) -> bool:
        """Keep one that has nothing to do; False if it is not wanted any more."""
        with self._lock:
            if not self.users or compiler.served >= MOST_SERVED:
                return False
            self._waiting.append((kind, compiler))
            most = KINDS * cores()
            gone, self._waiting = self._waiting[:-most], self._waiting[-most:]
        for _, old in gone:
            old.end()
        return True

    def end(self) -> None:
        """The end of those that this process started; a fork's copies are its parent's."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for _, compiler in waiting:
            if compiler.owner == os.getpid():
                compiler.end()


_kept = _Kept()


class _Crew:
    """The processes of one `compile_all`, each fed by a thread of its own."""

    def __init__(self, compiler: str, tasks: Iterable[Task], progress: Progress | None) -> None:
        self._command = [sys.executable, "-c", _START, compiler, *_search_path()]
        self._environment = environment()
        self._tasks = deque(tasks)
        self._progress = progress
        self._lock = threading.Lock()
        self._running: list[_Compiler] = []

    def stop(self) -> None:
        """No further kernel, and the end of every process that has one."""
        self._tasks.clear()
        with self._lock:
            for compiler in self._running:
                _kill(compiler.process)

    def work(self) -> None:
        """Feed one process until there is nothing left to compile."""
        kind = (self._command, self._environment)
        with self._lock:
            if not self._tasks:  # also behind `stop`
                return
            compiler = _kept.take(kind) or _Compiler(*kind)
            self._running.append(compiler)
        done = False
        try:
            while (task := self._next()) is not None:
                if not self._compile(compiler, task):
                    raise FusecError(f"kernel {task.name}: {compiler.death()}")
                if self._progress:
                    self._progress(task.name)
            done = True
        finally:
            with self._lock:  # `stop` must not end one that the next call may have
                self._running.remove(compiler)
            if not (done and _kept.give(kind, compiler)):
                compiler.end()

    def _next(self) -> Task | None:
        with contextlib.suppress(IndexError):
            return self._tasks.popleft()
        return None

    def _compile(self, compiler: _Compiler, task: Task) -> bool:
        """Fill one entry; False if the process died over it."""
        compiler.served += 1
        staging, refused = stage(task.entry), False
        try:
            with writing():
                (staging / f"{task.name}.py").write_text(task.source, encoding="utf-8")
            line = _ask(
                compiler.process, task.request | {"folder": str(staging), "name": task.name}
            )
            answer = json.loads(line) if line else {}
            if answer is None:
                publish(staging, task.entry)
            elif "unwritable" in answer:
                raise unwritable(answer["unwritable"])
            elif refused := "refused" in answer:
                raise FusecError(answer["refused"])
            return answer is None
        finally:  # the message of a refusal may name the source, which stays for now
            (leave if refused else discard)(staging)


def _search_path() -> list[str]:
    """The modules' folders as this process has them, wherever the other one starts."""
    found = []
    for folder in sys.path:
        with contextlib.suppress(OSError, TypeError):  # a working folder that is gone; no text
            found.append(os.path.abspath(folder))
    return found


def _ask(process: subprocess.Popen[str], request: dict[str, Any]) -> str:
    """The answer to a request; empty if the process is gone."""
    assert process.stdin and process.stdout
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        return process.stdout.readline()
    return ""


def _keep_last(stream: IO[str], complaints: deque[str]) -> None:
    complaints.extend(line.strip() for line in stream if line.strip())


def _death(code: int, complaints: deque[str]) -> str:
    if code >= 0 or code not in [-number for number in signal.Signals]:
        return f"the compiler process died: {complaints[-1] if complaints else 'no message'}"
    name = signal.Signals(-code).name
    memory = ", perhaps for want of memory" if name == "SIGKILL" else ""
    return f"the compiler process was ended by {name}{memory}"


def _kill(process: subprocess.Popen[str]) -> None:
    """End a process and what it has started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
        process.wait()
