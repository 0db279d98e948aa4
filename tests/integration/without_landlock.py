"""Run as a script: becomes the command in its argv, on what is from then on a kernel without Landlock.

The kernel itself says that these system calls do not exist, as an old one does, to the command and all its children.
"""

import ctypes
import os
import struct
import sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, FILTER = 22, 38, 2
CREATE_RULESET, RESTRICT_SELF, ENOSYS = 444, 446, 38
LOAD, IF_AT_LEAST, IF_ABOVE, GIVE = 0x20, 0x35, 0x25, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | ENOSYS
# (what, skipped when true, skipped when false, value): the call's number is the first word of what the filter sees.
PROGRAM = (
    (LOAD, 0, 0, 0),
    (IF_AT_LEAST, 0, 2, CREATE_RULESET),
    (IF_ABOVE, 1, 0, RESTRICT_SELF),
    (GIVE, 0, 0, REFUSE),
    (GIVE, 0, 0, ALLOW),
)


def main() -> None:
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in PROGRAM))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(PROGRAM), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, FILTER, program, 0, 0)):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 (there is no shell)


if __name__ == "__main__":
    main()
