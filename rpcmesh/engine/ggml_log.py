"""llama.cpp's log lines, whole: passed on as they come, and remembered while a model loads. No ctypes."""

from __future__ import annotations

from collections.abc import Callable

# enum ggml_log_level
DEBUG, INFO, WARN, ERROR, CONT = 1, 2, 3, 4, 5


class Log:
    """Receives what ggml's log callback is given, from any thread, and passes lines of INFO and above on."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._level = INFO
        self._fragment = ""
        self._errors: list[str] = []
        self.load_lines: list[str] = []
        # The C callback that feeds this log, kept alive with it.
        self.callback: object = None

    def start_load(self) -> None:
        """Forget what an earlier load said."""
        self._errors.clear()
        self.load_lines.clear()

    def first_error(self) -> str:
        """Why a load failed. The first error names the cause; those after it only say that something failed."""
        if not self._errors:
            return "llama.cpp gave no reason"
        _function, _, reason = self._errors[0].partition(": ")
        return reason.removeprefix("error loading model: ")

    def receive(self, level: int, text: str) -> None:
        """One call of the callback: often a line, at times a piece of one."""
        if level != CONT:
            self._level = level
        *lines, self._fragment = (self._fragment + text).split("\n")
        for line in lines:
            self._take(line)

    def _take(self, line: str) -> None:
        if line.startswith("load_tensors: "):
            self.load_lines.append(line)
        if self._level == ERROR:
            self._errors.append(line)
        if self._level != DEBUG and line:
            self._on_line(line)
