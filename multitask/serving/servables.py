"""Models that a server has loaded: every model folder is watched, a new version answers once it is ready.

The old version answers until then, and until the requests it has taken are answered. As with TF-Serving, the newest
version answers a request that names none, and a version that fails to load leaves the old one in place.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from multitask.demo.probe import probe_images
from multitask.network import processor
from multitask.parallel import Memory
from multitask.prediction.decisions import differences
from multitask.serving.batching import WORK_BYTES, Batcher
from multitask.serving.model_folder import KEPT_VERSIONS, LABELS, ModelFolder
from multitask.serving.native import SPEC_FILE, NativeModel, NativePredictor
from multitask.serving.replies import WireError
from multitask.spec import ModelSpec

POLL_SECONDS = 1.0
# bfloat16 has 8 significant bits; through 13 convolutions scores were seen to differ by up to 0.01.
BFLOAT16_TOLERANCE = 0.03


def agrees_in_bfloat16(directory: Path) -> bool:
    """Return whether this machine has bfloat16 units and the model answers alike with them, for the probe images."""
    if not processor.has_bfloat16_units():
        return False
    images = list(probe_images().values())
    spec = ModelSpec.load(directory / SPEC_FILE)
    exact, fast = (NativePredictor(directory, bfloat16=bfloat16).predict(images) for bfloat16 in (False, True))
    return all(
        differences(task, exact.values[task.name], fast.values[task.name])[exact.ok].max() <= BFLOAT16_TOLERANCE
        for task in spec.tasks
    )


class Servable:
    """One loaded version of a model."""

    def __init__(
        self, name: str, version: int, directory: Path, *, watch: Callable[[int], None], bfloat16: bool, memory: Memory
    ) -> None:
        self.name, self.version = name, version
        self.spec = ModelSpec.load(directory / SPEC_FILE)
        self.model = NativeModel(directory, bfloat16=bfloat16)
        self._users = 0
        self._unused = threading.Condition()
        # The graph is optimised in its first run; nobody should wait for that.
        self.model.run("serving_default", {"image_bytes": [probe_images()["png"]]})
        self.batcher = Batcher(self.model.run, memory=memory, watch=watch)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Servable]:
        """Keep the version loaded while the block runs."""
        with self._unused:
            self._users += 1
        try:
            yield self
        finally:
            with self._unused:
                self._users -= 1
                self._unused.notify_all()

    def retire(self) -> None:
        """Wait for the last request, then free the model."""
        with self._unused:
            while self._users:
                self._unused.wait()
        self.batcher.close()
        self.model.close()


@dataclass
class _Watched:
    folder: ModelFolder
    ready: dict[int, Servable] = field(default_factory=dict)
    states: dict[int, tuple[str, str, str]] = field(default_factory=dict)


class Servables:
    """All models below a folder, e.g. serving/models.

    Args:
        root: its folders with numbered versions in them are models.
        watch: told model name and rows of every batch.
        bfloat16: see `NativeModel`.
        say: told what is loaded and unloaded.
    """

    def __init__(
        self,
        root: Path,
        *,
        watch: Callable[[str, int], None] = lambda name, rows: None,
        bfloat16: Callable[[Path], bool] = lambda directory: False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._root, self._watch, self._bfloat16 = root, watch, bfloat16
        # One for all models: what they decode at once does not grow with their number.
        self.memory = Memory(WORK_BYTES)

        def say_if_heard(text: str) -> None:
            # A closed standard error is no reason to stop looking for versions.
            with contextlib.suppress(OSError, ValueError):
                say(text)

        self._say = say_if_heard
        self._models: dict[str, _Watched] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._keep_looking, daemon=True)

    def start(self) -> None:
        """Load what is there, then keep looking for new versions."""
        self.look()
        self._watcher.start()

    def stop(self) -> None:
        """Answer what was taken, and free every model."""
        self._stop.set()
        if self._watcher.is_alive():
            self._watcher.join()
        for model in self._models.values():
            for version in list(model.ready):
                self._unload(model, version)

    def names(self) -> list[str]:
        """Return the models that can answer."""
        with self._lock:
            return sorted(name for name, model in self._models.items() if model.ready)

    @contextlib.contextmanager
    def use(self, name: str, version: int | None = None, label: str | None = None) -> Iterator[Servable]:
        """Yield the version asked for, the newest by default; it stays loaded while the block runs.

        Raises:
            WireError: there is none.
        """
        with self._lock, contextlib.ExitStack() as stack:
            servable = stack.enter_context(self._find(name, version, label).in_use())
            held = stack.pop_all()
        with held:
            yield servable

    def states(self, name: str, version: int | None = None) -> list[tuple[int, str, str, str]]:
        """Return (version, state, error code, error message) of every version, highest first.

        Raises:
            WireError: nothing is known of the model, or of that version.
        """
        with self._lock:
            found = self._models[name].states if name in self._models else {}
            listed = [(number, *found[number]) for number in sorted(found, reverse=True)]
        if not listed:
            raise WireError(f"Could not find any versions of model {name}", "NOT_FOUND")
        if version is None:
            return listed
        chosen = [entry for entry in listed if entry[0] == version]
        if not chosen:
            raise WireError(f"Could not find version {version} of model {name}", "NOT_FOUND")
        return chosen

    def look(self) -> None:
        """Load and unload what the folders ask for."""
        for directory in sorted(self._root.iterdir()) if self._root.is_dir() else []:
            if directory.is_dir() and not directory.name.startswith("."):
                with self._lock:
                    model = self._models.setdefault(directory.name, _Watched(ModelFolder(directory)))
                self._follow(model)

    def _find(self, name: str, version: int | None, label: str | None) -> Servable:
        ready = self._models[name].ready if name in self._models else {}
        if label is not None and ready:
            # Of what is loaded, not of what the folder holds: a label moves when its version can answer.
            version = dict(zip(LABELS, sorted(ready, reverse=True), strict=False)).get(label)
            if version is None:
                raise WireError(f"Unrecognized servable version label: {label}")
        wanted = max(ready, default=None) if version is None else version
        if wanted not in ready:
            request = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise WireError(f"Servable not found for request: {request}", "NOT_FOUND")
        return ready[wanted]

    def _follow(self, model: _Watched) -> None:
        wanted = model.folder.versions()[-KEPT_VERSIONS:]
        for version in reversed(wanted):
            is_new = model.states.get(version, ("END", "OK", ""))[:2] == ("END", "OK")
            if version not in model.ready and is_new:
                self._load(model, version)
        # What is no longer wanted goes once something wanted is ready, or when the folder holds nothing at all.
        if not wanted or any(version in model.ready for version in wanted):
            for version in set(model.ready) - set(wanted):
                self._unload(model, version)

    def _load(self, model: _Watched, version: int) -> None:
        name, directory = model.folder.name, model.folder.path(version)
        self._set_state(model, version, "LOADING")
        try:
            bfloat16 = self._bfloat16(directory)
            watch = functools.partial(self._watch, name)
            servable = Servable(name, version, directory, watch=watch, bfloat16=bfloat16, memory=self.memory)
        except Exception as error:
            self._set_state(model, version, "END", "FAILED_PRECONDITION", str(error))
            self._say(f"{name} version {version} cannot be loaded: {error}")
            return
        with self._lock:
            model.ready[version] = servable
            model.states[version] = ("AVAILABLE", "OK", "")
        self._say(f"{name} version {version} is ready")

    def _unload(self, model: _Watched, version: int) -> None:
        with self._lock:
            servable = model.ready.pop(version)
            model.states[version] = ("UNLOADING", "OK", "")
        servable.retire()
        self._set_state(model, version, "END")
        self._say(f"{model.folder.name} version {version} is unloaded")

    def _set_state(self, model: _Watched, version: int, state: str, code: str = "OK", text: str = "") -> None:
        with self._lock:
            model.states[version] = (state, code, text)

    def _keep_looking(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            _give_memory_back()
            try:
                self.look()
            except Exception as error:
                self._say(f"{self._root} cannot be looked at: {type(error).__name__}: {error}")


def _give_memory_back() -> None:
    """Return freed memory to the system: glibc keeps in every thread's arena the most that large requests ever took."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
