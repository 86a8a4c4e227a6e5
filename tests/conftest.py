"""Shapes are checked while testing, each worker computes on one thread, and long tests wait to be asked for."""

from __future__ import annotations

import gc
import importlib
import re
import signal
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jaxtyping
import pytest
import torch
from playwright.sync_api import Browser

with jaxtyping.install_import_hook(
    ["mhc_ref.block", "mhc_ref.stack", "mhc_ref.gain", "mhc_ref.projection"], "beartype.beartype"
):
    import mhc_ref.gain as gain

from browsing import missing

from mhc_ref import registry
from properties.commands.site import screens
from properties.plugin.options import profile_name

__all__ = ["gain"]


@pytest.fixture(autouse=True)
def unheard_signals() -> Generator[None]:
    """Signals that a test raises are its own: a run that listens would take them for its end, and be killed for not
    ending. Ctrl-C still reaches the handler of that run."""
    woken = signal.set_wakeup_fd(-1)
    yield
    signal.set_wakeup_fd(woken)


@pytest.fixture(scope="session")
def browser() -> Generator[Browser, None, None]:
    """The browser in which pages are looked at; where there is none, that is said, and continuous integration fails."""
    found = screens.executable()
    if found is None:
        missing(f"no browser: {screens.FETCHED} has none (python tests/browser/fetch.py {screens.FETCHED})")
    with screens.browser(found) as opened:
        yield opened


@pytest.fixture(scope="session")
def compiler() -> None:
    """torch's compiler is loaded, which it may be once in a process only: its operators are registered for good."""
    importlib.import_module("torch._dynamo.trace_rules")


@pytest.fixture
def pytester(compiler: None, pytester: pytest.Pytester) -> pytest.Pytester:
    """Pytester, which forgets what was imported since it began: so the compiler is there before."""
    return pytester


@pytest.fixture(autouse=True, scope="module")
def families_of_this_file(request: pytest.FixtureRequest) -> Generator[None]:
    """Families from outside are those that a file of tests defines, imports, makes or BRINGS (a folder).

    What other files have registered is not there to be identified or listed.
    """
    module = request.module
    near = {module.__name__, *(getattr(one, "__module__", None) or "" for one in vars(module).values())}
    near |= {one.__name__ for one in vars(module).values() if isinstance(one, ModuleType)}
    homes = {module.__file__, getattr(module, "BRINGS", None)}
    everything = dict(registry._outside)
    for key, one in everything.items():
        ours = type(one).__module__.startswith("properties.") or type(one).__module__ in near
        if not ours and homes.isdisjoint((_file(one), str(Path(_file(one)).parent))):
            del registry._outside[key]
    yield
    registry._outside.update({**everything, **registry._outside})


def _file(family: Any) -> str:
    """The file that a family is defined in, which as a target is a module of another name."""
    codes = [getattr(one, "__code__", None) for one in vars(type(family)).values()]
    return next((code.co_filename for code in codes if code is not None), "")


@pytest.fixture
def usual_signals() -> Generator[None]:
    """Python's own handler of Ctrl-C, for tests that raise it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """A worker takes neighbouring tests, which share what they compute, and what another has left over.

    In pyproject.toml the option would be an error wherever pytest runs without xdist.
    """
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "worksteal"


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    if sys.dont_write_bytecode and not hasattr(config, "workerinput"):
        _share_what_is_compiled(config)


def _share_what_is_compiled(config: pytest.Config) -> None:
    """Where nothing may be written beside the sources, the hundreds of processes that tests start would compile all of
    it anew, each for more than a second: they share a folder for that, which ends with this run."""
    folder = tempfile.TemporaryDirectory(prefix="mhc-compiled-", ignore_cleanup_errors=True)
    config.add_cleanup(folder.cleanup)
    environment = pytest.MonkeyPatch()
    config.add_cleanup(environment.undo)
    environment.setenv("PYTHONPYCACHEPREFIX", folder.name)
    environment.delenv("PYTHONDONTWRITEBYTECODE", raising=False)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is collected stays to the end, and need not be looked through again by every collection of garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        _kept()
        gc.enable()


def pytest_unconfigure() -> None:
    _kept()  # pytest looks for garbage five times more


def _kept() -> None:
    gc.collect()
    gc.freeze()


OF_CALLS = re.compile(
    "::(sizes|execution)[.]|-however-(they-are|it-is)-called|-through-(the-stack|layers|many-layers)|-coincide"
)
"""Laws about how a target is called, and how often: its sizes, modes, memory and layouts."""
LAW = re.compile(r"::[a-z]+[.][a-z-]+\[")
"""An item of the plugin, a law with what it is put to."""
MANY = 4
"""Cases of one test which a quick run tries, and one in six of the others."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Seconds-long tests run in CI (profile ci), minutes-long ones where -m asks for them, and so do most cases of a
    test whose cases are of one kind (the marker one_in).

    The profile dev is for two minutes: of a test of many cases it tries some. One arithmetic computes all references,
    and is called alike: there the laws about calls are tried with one of them, a sixth of the others. In CI one in
    four about calls is tried with the others, in their dtypes, of those that go through sizes none.

    Functions whose shapes are checked cannot be traced: that law is tried in a process of its own (test_device_laws).
    """
    _thin_out(items)
    left = {item for item in items if "::device.traced-blocks-pull-back-alike[" in item.nodeid}
    if not config.option.markexpr:
        dev = profile_name(config) == "dev"
        waiting = ("slow", "thorough") if dev else ("thorough",)
        left |= {item for item in items if any(item.get_closest_marker(marker) for marker in waiting)}
        if not config.getoption("impl", None):
            others = [item for item in items if LAW.search(item.nodeid) and "[ref:PAPER-" not in item.nodeid]
            calls = [item for item in others if OF_CALLS.search(item.nodeid)]
            left |= {item for item in calls if dev or "::sizes." in item.nodeid or not _chosen(item, 4)}
            if dev:
                left |= {item for item in others if not _chosen(item, 6)}
                left |= set(_of_many(item for item in items if not LAW.search(item.nodeid)))
    config.hook.pytest_deselected(items=[item for item in items if item in left])
    items[:] = [item for item in items if item not in left]


def _of_many(items: Iterable[pytest.Item]) -> Iterator[pytest.Item]:
    """Those that a quick run does without: of a test of more than `MANY` cases about five in six beyond them."""
    seen: Counter[str] = Counter()
    for item in items:
        name = item.nodeid.partition("[")[0]
        seen[name] += 1
        if seen[name] > MANY and not _chosen(item, 6):
            yield item


def _thin_out(items: list[pytest.Item]) -> None:
    """Of the cases of a test marked one_in(count) the first and one in so many are tried, the others are `thorough`.

    Their names alone say which: they are the same in every run, and what is added beside them changes nothing. To take
    every fourth, say, would leave out whole columns of a product whose rows are of four.
    """
    begun: set[str] = set()
    for item in items:
        of = item.get_closest_marker("one_in")
        if of is None:
            continue
        name = item.nodeid.partition("[")[0]
        if name in begun and not _chosen(item, of.args[0]):
            item.add_marker("thorough")
        begun.add(name)


def _chosen(item: pytest.Item, count: int) -> bool:
    """Whether it is one in so many, by its name."""
    return zlib.crc32(item.nodeid.encode()) % count == 0
