"""The rescue system's console: what it says while it works, then a menu of named actions.

No shell. Whoever stands at the console can start, repair and erase the device, as
whoever opens it can anyway; nobody can read its data or change what is trusted.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable

from recovery import process
from recovery.reporter import Reporter
from recovery.rescue.decide import Diagnosis, Wait
from recovery.slots import Slot
from recovery.starts import Action
from updater.rescue_visit import Course, described

NOBODY_SECONDS = 600
"""After so long without a key the visit goes on as if nobody had asked for it."""
RETRY_SECONDS = 600
_PREFIX = "orbital: rescue: "
_MENU = (
    ("1", "show the diagnosis"),
    ("2", "repair, as rescue does by itself"),
    ("3", "install again: from a stick, or from the network"),
    ("4", "start slot a"),
    ("5", "start slot b"),
    ("6", "factory reset: user data are kept"),
    ("7", "erase all data"),
    ("8", "restart"),
    ("9", "switch off"),
)


class Spoken:
    """A reporter whose lines begin with "orbital: rescue: ", as all on this console do."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def stage(self, name: str) -> None:
        """A new stage of the work."""
        self._reporter.stage(f"{_PREFIX}{name}")

    def progress(self, done: int, total: int) -> None:
        """How far the stage has come."""
        self._reporter.progress(done, total)

    def message(self, text: str) -> None:
        """One or more lines."""
        for line in text.splitlines():
            self._reporter.message(f"{_PREFIX}{line}")


class Console:
    """The course of a visit on the console."""

    def __init__(
        self,
        course: Course,
        restart: Callable[[], None],
        read: Callable[[float], str | None] | None = None,
    ) -> None:
        """restart: does not return on a device. read: a line, None after so many seconds."""
        self._course = course
        self._restart = restart
        self._read = read or read_line
        self._restarted = False

    def run(self) -> int:
        """The whole visit. Returns when the machine restarts."""
        course, visit = self._course, self._course.site.visit
        self.say(f"entered: {visit.reason or 'no slot was left to start, or it was chosen'}")
        while not self._restarted:
            try:
                waits = course.by_itself()
            except Exception as error:  # A defect of ours must not take the menu away.
                waits = Wait(f"the rescue program has failed: {error!r}", retry=False)
            if waits is None:
                self.restart()
                break
            self.tell(waits)
            self.menu(waits)
        return 0

    def tell(self, waits: Wait) -> None:
        """Says what is waited for, and what a person can do."""
        course = self._course
        try:
            found = course.site.diagnose()
            for line in described(course.site, found):
                self.say(line)
        except Exception as error:
            self.say(f"cannot diagnose this device: {error}")
        for problem in dict.fromkeys(course.problems):
            self.say(problem)
        self.say(f"waiting for a person: {waits.reason}")
        if not course.site.visit.person:
            self.say(course.what_to_bring())

    def menu(self, waits: Wait) -> None:
        """Offers the actions until something has to be done again by itself."""
        course = self._course
        deadline = time.monotonic() + (RETRY_SECONDS if waits.retry else NOBODY_SECONDS)
        while not self._restarted:
            for key, text in _MENU:
                print(f"  {key}  {text}")
            print("orbital rescue> ", end="", flush=True)
            line = self._read(max(0.0, deadline - time.monotonic()))
            if line is None:
                if waits.retry:
                    # A stick may have been plugged in, the network may have come.
                    course.site.tried.discard("reinstall")
                elif course.site.visit.person or self.by_menu(waits):
                    self.say("nobody is here: goes on by itself")
                    course.site.forget_person()
                else:
                    deadline = time.monotonic() + NOBODY_SECONDS
                    continue
                return
            deadline = time.monotonic() + NOBODY_SECONDS
            if line.strip() == "2":
                course.site.forget_person()
                course.site.tried.clear()
                return
            self.act(line.strip())

    def by_menu(self, waits: Wait) -> bool:
        """Whether it was taken for a person's visit because nothing is wrong."""
        return waits.reason.startswith("a person")

    def act(self, key: str) -> None:
        """One action by name. What fails is said."""
        course = self._course
        actions: dict[str, Callable[[], bool]] = {
            "1": self._diagnose,
            "3": self._reinstall,
            "4": lambda: self._start("a"),
            "5": lambda: self._start("b"),
            "6": lambda: self._reset("reset"),
            "7": lambda: self._reset("erase"),
            "8": lambda: True,
            "9": self._off,
        }
        if key not in actions:
            return
        try:
            with course.site.lock():
                leaves = actions[key]()
        except Exception as error:
            self.say(str(error) or repr(error))
            return
        if leaves:
            self.restart()

    def say(self, text: str) -> None:
        """Says something on the console."""
        self._course.site.reporter.message(text)

    def restart(self) -> None:
        """Restarts the machine."""
        self._restarted = True
        self._restart()

    def _diagnose(self) -> bool:
        found: Diagnosis = self._course.site.diagnose()
        for line in described(self._course.site, found):
            self.say(line)
        return False

    def _reinstall(self) -> bool:
        self._course.site.diagnose(slots=False)
        self._course.reinstall_from_anywhere(insist=True)
        return True

    def _start(self, slot: Slot) -> bool:
        self._course.start(slot, counted=False)
        return True

    def _reset(self, action: Action) -> bool:
        print(f"type {action} to do it: ", end="", flush=True)
        if (self._read(60.0) or "").strip() != action:
            self.say("nothing has been done")
            return False
        self._course.reset(action)
        return True

    def _off(self) -> bool:
        self._course.site.state.unmount()
        process.run(["poweroff", "-f"], timeout=60)
        return False


def read_line(seconds: float) -> str | None:
    """A line from the console; None when none came within so many seconds."""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    if not ready:
        return None
    data = os.read(sys.stdin.fileno(), 1000)
    if not data:
        # No console: as if nobody were there, and not at once.
        time.sleep(seconds)
        return None
    return data.decode(errors="replace")
