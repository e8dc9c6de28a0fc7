"""The rows of the zoo: kept in a file as they are found, each made by a process with limits of time and memory."""

import json
import multiprocessing
import os
import time
from multiprocessing.connection import wait
from pathlib import Path

import psutil

RESULTS = Path(__file__).with_name("results.json")
GIBIBYTE = 1 << 30


def key(entry, algorithm):
    return f"{entry.group}/{entry.name}/{algorithm}"


class Rows:
    """Rows by group, model and algorithm, in a JSON file with a line each.

    Args:
        path: of the file, which need not exist.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.rows = json.loads(self.path.read_text()) if self.path.exists() else {}

    def add(self, name, row):
        """Keep a row and write the file, which always is whole."""
        self.rows[name] = row
        lines = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(self.rows.items())]
        beside = self.path.with_suffix(".tmp")
        beside.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        beside.replace(self.path)


class Job:
    """A process that makes one row; forked, so that it need not import anything again.

    Args:
        entry: of the catalog.
        algorithm: its name.
        work: called in the process with a function to which it reports the row as far as it is known.
    """

    def __init__(self, entry, algorithm, work):
        self.entry, self.algorithm, self._started, self._reason = entry, algorithm, time.monotonic(), None
        self.row = {"group": entry.group, "family": entry.family, "model": entry.name, "algorithm": algorithm}
        context = multiprocessing.get_context("fork")
        self._receiver, sender = context.Pipe(duplex=False)
        self.process = context.Process(target=self._run, args=(work, sender))
        self.process.start()
        sender.close()

    @staticmethod
    def _run(work, sender):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        if "ZOO_ERRORS" not in os.environ:
            os.dup2(nowhere, 2)
        work(sender.send)
        sender.close()

    def watch(self, gibibytes, seconds):
        """Take what was reported, and end the process if it is over a limit."""
        self._receive()
        if self._reason is None and self.process.is_alive():
            if memory_of(self.process.pid) > gibibytes * GIBIBYTE:
                self._reason = f"took more than {gibibytes:g} GiB"
            elif time.monotonic() - self._started > seconds:
                self._reason = f"took more than {seconds:g} s"
            if self._reason:
                self.process.kill()

    def _receive(self):
        try:
            while self._receiver.poll():
                self.row |= self._receiver.recv()
        except EOFError:
            pass

    def result(self):
        """The row of a process that has ended."""
        self.process.join()
        self._receive()
        if self._reason is None and self.process.exitcode:
            self._reason = f"ended with {self.process.exitcode}"
        if self._reason:
            self.row["ended"] = self._reason
        return self.row


def memory_of(number):
    try:
        return psutil.Process(number).memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def fill(rows, wanted, start, jobs, gibibytes, seconds, until, note):
    """Make rows.

    Args:
        rows: filled.
        wanted: entries and algorithms, in order.
        start: makes the job of an entry and an algorithm.
        jobs: processes at a time.
        gibibytes: limit of memory of one.
        seconds: limit of one.
        until: when to start no more, by time.monotonic.
        note: called with each row.
    """
    left, running = list(wanted), []
    while running or (left and time.monotonic() < until):
        while left and len(running) < jobs and time.monotonic() < until:
            running.append(start(*left.pop(0)))
        wait([job.process.sentinel for job in running], timeout=0.2)
        for job in list(running):
            job.watch(gibibytes, seconds)
            if not job.process.is_alive():
                running.remove(job)
                rows.add(key(job.entry, job.algorithm), job.result())
                note(rows.rows[key(job.entry, job.algorithm)])
