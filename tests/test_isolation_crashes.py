"""`--isolate` and a target that leaves, at whatever moment and however: a sentence, and the next call is answered."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mhc_ref
from mhc_ref import Params
from properties.core.implementation import Implementation, Reference
from properties.targets.isolation import _Worker, isolated
from properties.targets.process import peer
from properties.targets.process.peer import _sent
from properties.targets.process.protocol import BadAnswer, Limits, NoAnswer, ProcessDied, ServerError
from properties.targets.target import TargetError

linux = pytest.mark.skipif(sys.platform != "linux", reason="a worker forks on Linux alone")

TARGET = '''
import atexit, ctypes, os, sys, threading
import torch
import mhc_ref
from properties.core.implementation import Implementation, Reference


class Target(Reference):
    """Right, but for n = 2; tuned(iterations=k) is the k-th of its subclasses, so that one worker serves them all."""
    tunable = frozenset({"iterations"})

    def __init__(self):
        super().__init__(mhc_ref.PAPER, type(self).__name__)

    def tuned(self, iterations):
        return Target.__subclasses__()[iterations]()

    def project(self, logits):
        return self.act(logits) if logits.shape[-1] == 2 else super().project(logits)


class LeavesQuietly(Target):
    def act(self, logits): os._exit(0)

class LeavesAsTheWorkerDoes(Target):
    def act(self, logits): os._exit(213)

class LeavesAtExit(Target):
    def act(self, logits):
        atexit.register(os._exit, 0)
        sys.exit(7)

class LeavesInAThread(Target):
    def act(self, logits):
        thread = threading.Thread(target=os._exit, args=(0,))
        thread.start()
        thread.join()

class Aborts(Target):
    def act(self, logits): os.abort()

class LeavesLater(Target):
    """Answers, and leaves when somebody writes to its pipe."""
    def act(self, logits):
        path = os.environ["LATER"]
        threading.Thread(target=lambda: (open(path).read(), os._exit(0)), daemon=True).start()
        return mhc_ref.project(logits, self.dialect)

class Scribbles(Target):
    """Writes to every pipe that it finds, the worker's own among them."""
    def act(self, logits):
        for descriptor in range(3, 64):
            try: os.write(descriptor, os.environ["SCRIBBLE"].encode() + b"\\n")
            except OSError: pass
        return logits

class Closes(Target):
    def act(self, logits): os.closerange(0, 64)

class Sparse(Target):
    def act(self, logits): return logits.to_sparse()

class Meta(Target):
    def act(self, logits): return logits.to("meta")

class Nested(Target):
    def act(self, logits): return torch.nested.nested_tensor([logits[0], logits[0]])

class Huge(Target):
    def act(self, logits): return 10**5000

class Long(Target):
    def act(self, logits): return "x" * 10**6

class Circular(Target):
    def act(self, logits):
        found = []
        found.append(found)
        return found

class Escaping(Target):
    def act(self, logits): raise ValueError("\\x1b[2J\\ud800")

class Interrupting(Target):
    def act(self, logits): raise KeyboardInterrupt("not the user")

class Outcome(Target):
    """What pytest.skip and the like raise is no Exception."""
    def act(self, logits): raise type("Skipped", (BaseException,), {})("nothing to see")

class Speechless(Target):
    def act(self, logits):
        class Speechless(Exception):
            def __str__(self): raise RuntimeError
        raise Speechless

class Calling(Target):
    """Calls its branch for ever."""
    def block(self, x, params, branch):
        while True: branch(x[..., 0, :])

class Keeping(Target):
    """Calls the branch of its first call."""
    kept = []
    def block(self, x, params, branch):
        self.kept.append(branch)
        self.kept[0](x[..., 0, :])
        return x
'''

NAMES = [line.split()[1].partition("(")[0] for line in TARGET.splitlines() if line.endswith("(Target):")]
TWO = torch.zeros(1, 2, 2)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Implementation]:
    """A target by its name, all in one worker."""
    path = tmp_path_factory.mktemp("target") / "target.py"
    path.write_text(TARGET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATER", str(path.with_name("later")))
        patch.setenv("SCRIBBLE", '{"answers": "\\u001b[31m", "tree": null, "tensors": [], "changed": {}}')
        os.mkfifo(path.with_name("later"))
        worker = isolated(f"{path}:Target", limits=Limits(calls_back=20))
    return lambda name: worker.tuned(iterations=NAMES.index(name))


def assert_right(implementation: Implementation) -> None:
    three = torch.arange(9.0).reshape(1, 3, 3)
    for _ in range(2):
        assert torch.equal(implementation.project(three), mhc_ref.project(three, mhc_ref.PAPER))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("LeavesQuietly", "the worker exited with status 0"),
        ("LeavesAsTheWorkerDoes", "the worker exited with status 213"),
        ("LeavesAtExit", "the worker exited with status 0"),
        ("LeavesInAThread", "the worker exited with status 0"),
        ("Aborts", "the worker was killed by SIGABRT"),
    ],
)
def test_however_it_leaves_it_is_said(target: Callable[[str], Implementation], name: str, message: str) -> None:
    found = target(name)
    for _ in range(2):
        with pytest.raises(ProcessDied) as caught:
            found.project(TWO)
        assert str(caught.value) == message
        assert_right(found)


@pytest.mark.slow
@linux
@pytest.mark.parametrize("tokens", [1, 1 << 17])
def test_what_left_between_two_calls_answers_neither(target: Callable[[str], Implementation], tokens: int) -> None:
    """The request to the worker that left is not answered by the next one, in place of what that is asked; one that
    does not fit into a pipe is read by neither as a whole."""
    found = target("LeavesLater")
    worker = _worker_of(found)
    assert torch.equal(found.project(TWO), mhc_ref.project(TWO, mhc_ref.PAPER))
    handle, poll = os.pidfd_open(worker._process.watched), select.poll()
    Path(worker._target.rpartition(":")[0]).with_name("later").write_text("leave")
    poll.register(handle, select.POLLIN)
    assert poll.poll(60_000)
    os.close(handle)
    with pytest.raises(ProcessDied, match="the worker exited with status 0"):
        found.project(torch.zeros(tokens, 1, 1))
    for n in (3, 4, 5):
        logits = torch.arange(float(n * n)).reshape(1, n, n)
        assert torch.equal(found.project(logits), mhc_ref.project(logits, mhc_ref.PAPER))


def _worker_of(implementation: Implementation) -> _Worker:
    """The worker behind what `isolated` made."""
    (cell,) = [
        one.cell_contents
        for one in type(implementation).project.__closure__ or ()
        if isinstance(one.cell_contents, _Worker)
    ]
    return cell


def test_what_is_written_on_the_worker_s_pipes_is_no_answer(target: Callable[[str], Implementation]) -> None:
    found = target("Scribbles")
    with pytest.raises(BadAnswer, match=r"the worker answered '\\x1b\[31m'; \d+ was asked"):
        found.project(TWO)
    assert_right(found)


@pytest.mark.slow
def test_a_target_that_closes_every_pipe_is_said_to(target: Callable[[str], Implementation]) -> None:
    found = target("Closes")
    with pytest.raises(ProcessDied):
        found.project(TWO)
    assert_right(found)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Sparse", "Tensor of layout sparse_coo"),
        ("Meta", "Tensor without data (meta)"),
        ("Nested", "nested Tensor"),
        ("Huge", "int of 16610 bits"),
        ("Long", "str of 1000000 characters"),
    ],
)
def test_what_does_not_cross_is_named(target: Callable[[str], Implementation], name: str, kind: str) -> None:
    assert type(target(name).project(TWO)).__name__ == kind


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("Escaping", "ValueError", r"\x1b[2J\ud800"),
        ("Interrupting", "KeyboardInterrupt", "not the user"),
        ("Outcome", "Skipped", "nothing to see"),
        ("Speechless", "Speechless", "(its message cannot be read: __str__ raised RuntimeError)"),
    ],
)
def test_exceptions_can_be_shown(target: Callable[[str], Implementation], name: str, kind: str, message: str) -> None:
    with pytest.raises(ServerError) as caught:
        target(name).project(TWO)
    assert (type(caught.value).__name__, str(caught.value)) == (kind, message)


def test_a_value_that_holds_itself_is_an_error_of_the_target(target: Callable[[str], Implementation]) -> None:
    with pytest.raises(ServerError) as caught:
        target("Circular").project(TWO)
    assert type(caught.value).__name__ == "RecursionError"


STATE = torch.ones(1, 2, 3)
PARAMS = Params(torch.zeros(6, 8), torch.zeros(8), torch.ones(3))


def test_calls_of_branches_have_an_end(target: Callable[[str], Implementation]) -> None:
    found = target("Calling")
    with pytest.raises(NoAnswer, match="no answer within 20 calls of branches; the worker was stopped"):
        found.block(STATE, PARAMS, torch.tanh)
    assert_right(found)


def test_a_branch_that_is_no_longer_known_is_said_to_be_none(
    target: Callable[[str], Implementation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "_REMEMBERED", 2)
    found = target("Keeping")
    for _ in range(2):
        assert torch.equal(found.block(STATE, PARAMS, torch.tanh), STATE)
    with pytest.raises(BadAnswer, match="a branch was called that a call got more than 2 branches ago"):
        found.block(STATE, PARAMS, torch.tanh)
    assert_right(found)


ARRAY = _sent(torch.ones(2, 3), True)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [3, 3]},
        {"shape": [2, 3, 1]},
        {"shape": [2**40, 3], "stride": [0, 1]},
        {"stride": [4, 1]},
        {"stride": [-3, 1]},
        {"stride": [3]},
        {"offset": 1},
        {"offset": -1},
        {"offset": True},
        {"dtype": "float64"},
        {"dtype": "nn"},
        {"device": "nowhere"},
        {"data": "?"},
        {"data": 3},
        {"storage": "3"},
    ],
)
def test_an_array_that_reaches_beyond_its_bytes_does_not_arrive(change: dict[str, Any]) -> None:
    def exchange(array: dict[str, Any]) -> Any:
        reply = {"tree": {"tensor": 0}, "tensors": [array], "changed": {}, "graph": 0}
        return peer.Peer(lambda message: reply).call("project:", TWO)

    assert torch.equal(exchange(ARRAY), torch.ones(2, 3))
    with pytest.raises(BadAnswer):
        exchange(ARRAY | change)


@pytest.mark.parametrize("position", ["1", "-1", "x", ""])
def test_an_argument_that_was_not_given_cannot_be_changed(position: str) -> None:
    reply = {"tree": None, "tensors": [], "changed": {position: ARRAY}, "graph": 0}
    with pytest.raises(BadAnswer, match="changed argument"):
        peer.Peer(lambda message: reply).call("project:", torch.zeros(2, 3))


def test_an_argument_keeps_its_shape() -> None:
    reply = {"tree": None, "tensors": [], "changed": {"0": ARRAY}, "graph": 0}
    argument = torch.zeros(2, 3)
    peer.Peer(lambda message: reply).call("project:", argument)
    assert torch.equal(argument, torch.ones(2, 3))
    with pytest.raises(BadAnswer, match=r"an argument of shape \[4, 2, 3\] has \[2, 3\] after the call"):
        peer.Peer(lambda message: reply).call("project:", torch.zeros(4, 2, 3))


# -- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import os; os._exit(0)", "while the worker imported it: the worker exited with status 0"),
        ("import ctypes; ctypes.string_at(0)", "while the worker imported it: the worker was killed by SIGSEGV"),
        ("import os; os.abort()", "while the worker imported it: the worker was killed by SIGABRT"),
        ("raise SystemExit(0)", "raised SystemExit: 0"),
        ("import sys; sys.stderr.write('\\x1b[31mno\\n'); import os; os._exit(3)", r'its last words: "\\x1b\[31mno"'),
        ("raise ValueError('\\x1b[2J\\ud800')", r"\\x1b\[2J\\ud800"),
        (
            "import threading, os\nt = threading.Thread(target=os._exit, args=(0,)); t.start(); t.join()",
            "while the worker imported it: the worker exited with status 0",
        ),
        (
            "import atexit, os; atexit.register(os._exit, 0); raise ImportError('no such library')",
            "raised ImportError: no such library",
        ),
    ],
)
def test_a_target_that_leaves_when_it_is_imported_is_refused(tmp_path: Path, source: str, message: str) -> None:
    path = tmp_path / "target.py"
    path.write_text(source)
    with pytest.raises(TargetError, match=message) as caught:
        isolated(f"{path}:attr")
    assert "\x1b" not in str(caught.value)


@pytest.mark.slow
def test_a_target_with_a_thread_that_leaves_is_said_to(tmp_path: Path) -> None:
    """A thread of its own keeps the worker from forking, so that a new one has to import it again."""
    path = tmp_path / "target.py"
    path.write_text(
        "import os, threading\nimport mhc_ref\nfrom properties.core.implementation import Reference\n"
        "leave = threading.Event()\n"
        "threading.Thread(target=lambda: (leave.wait(), os._exit(0)), daemon=True).start()\n"
        "class Target(Reference):\n"
        "    def project(self, logits):\n"
        "        if logits.shape[-1] == 2:\n"
        "            leave.set()\n"
        "            threading.Event().wait()\n"
        "        return mhc_ref.project(logits, mhc_ref.PAPER)\n"
    )
    found = isolated(f"{path}:Target")
    for _ in range(2):
        with pytest.raises(ProcessDied, match="the worker exited with status 0"):
            found.project(TWO)
        assert_right(found)


@pytest.mark.slow
def test_a_target_that_can_be_imported_only_once_is_said_to(tmp_path: Path) -> None:
    path = tmp_path / "target.py"
    path.write_text(
        "import os, threading\nimport mhc_ref\nfrom properties.core.implementation import Reference\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        f"if os.path.exists({str(tmp_path / 'once')!r}): os._exit(1)\n"
        f"open({str(tmp_path / 'once')!r}, 'w').close()\n"
        "class Target(Reference):\n"
        "    def project(self, logits): os._exit(0)\n"
    )
    found = isolated(f"{path}:Target")
    with pytest.raises(ProcessDied, match="the worker exited with status 0"):
        found.project(TWO)
    with pytest.raises(ProcessDied, match=r"the worker could not be started again: .*the worker exited with status 1"):
        found.project(TWO)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["file", "package", "function", "deviation"])
def test_every_form_of_target_can_be_isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    (tmp_path / "mine" / "own.py").write_text(
        "import mhc_ref\nfrom properties.core.implementation import Reference\n"
        "def project(logits): return mhc_ref.project(logits, mhc_ref.LIGER)\n"
        "class Mine(Reference):\n    def __init__(self): super().__init__(mhc_ref.LIGER, 'mine')\n"
    )
    monkeypatch.chdir(tmp_path)
    target, dialect = {
        "file": ("mine/own.py:Mine", None),
        "package": ("mine.own:Mine", None),
        "function": ("mine/own.py:project", "LIGER"),
        "deviation": ("deviation:h-res-transposed@LIGER", None),
    }[form]
    found = isolated(target, dialect)
    assert found.dialect == mhc_ref.LIGER
    logits = torch.arange(9.0).reshape(1, 3, 3)
    assert torch.equal(found.project(logits), Reference(mhc_ref.LIGER).project(logits))
