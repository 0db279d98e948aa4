"""Run as a script: becomes a command that the kernel refuses some system calls, to it and all its children.

under_filter.py refuse:FIRST-LAST:ERRNO COMMAND..          these calls, as an old kernel does (ENOSYS)
under_filter.py only:UID:NUMBER,NUMBER.. COMMAND..         all but these, as a service's unit does (EPERM), as UID
"""

import ctypes
import errno
import os
import struct
import sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, FILTER = 22, 38, 2
LOAD, IF_EQUAL, IF_AT_LEAST, IF_ABOVE, GIVE = 0x20, 0x15, 0x35, 0x25, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
# (what, skipped when true, skipped when false, value). The call's number is the first word of what a filter sees.
Program = list[tuple[int, int, int, int]]
LOAD_NUMBER = (LOAD, 0, 0, 0)


def refuse(words: str) -> Program:
    calls, error = words.split(":")
    first, last = map(int, calls.split("-"))
    return [
        LOAD_NUMBER,
        (IF_AT_LEAST, 0, 2, first),
        (IF_ABOVE, 1, 0, last),
        (GIVE, 0, 0, REFUSE | int(error)),
        (GIVE, 0, 0, ALLOW),
    ]


def only(words: str) -> Program:
    uid, calls = words.split(":")
    if int(uid) != os.getuid():
        os.setgroups([])
        os.setgid(int(uid))
        os.setuid(int(uid))
    allowed = [part for call in calls.split(",") for part in ((IF_EQUAL, 0, 1, int(call)), (GIVE, 0, 0, ALLOW))]
    return [LOAD_NUMBER, *allowed, (GIVE, 0, 0, REFUSE | errno.EPERM)]


def main() -> None:
    kind, _, words = sys.argv[1].partition(":")
    lines = {"refuse": refuse, "only": only}[kind](words)
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(lines), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, FILTER, program, 0, 0)):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 (there is no shell)


if __name__ == "__main__":
    main()
