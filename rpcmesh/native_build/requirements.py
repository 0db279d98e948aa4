"""What a machine needs before anything compiles, and the command that installs each missing piece."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from rpcmesh.errors import RpcmeshError

# piece -> (apt, dnf, pacman, brew); brew's compiler is Apple's.
_PACKAGES: dict[str, tuple[str, str, str, str]] = {
    "a C++ compiler": ("g++", "gcc-c++", "gcc", ""),
    "cmake": ("cmake", "cmake", "cmake", "cmake"),
    "make or ninja": ("make", "make", "make", ""),
    "the OpenSSL 3 headers": ("libssl-dev", "openssl-devel", "openssl", "openssl@3"),
}
_INSTALLERS = (
    ("apt-get", "sudo apt-get install -y"),
    ("dnf", "sudo dnf install -y"),
    ("pacman", "sudo pacman -S"),
    ("brew", "brew install"),
)


def compiler() -> str | None:
    """The C++ compiler that CMake will choose: ``CXX``, else c++, g++ or clang++."""
    return next(
        (found for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name and (found := shutil.which(name))),
        None,
    )


def openssl_root() -> Path | None:
    """Homebrew's OpenSSL, which no compiler finds by itself; None elsewhere."""
    if platform.system() != "Darwin":
        return None
    usual = (Path("/opt/homebrew/opt/openssl@3"), Path("/usr/local/opt/openssl@3"))
    return next((path for path in usual if path.is_dir()), None)


def generator() -> str | None:
    """Ninja when present, else make; None when there is neither."""
    if shutil.which("ninja"):
        return "Ninja"
    return "Unix Makefiles" if shutil.which("make") else None


def missing() -> list[str]:
    """The pieces that this machine lacks, in words."""
    lacking = []
    if compiler() is None:
        lacking.append("a C++ compiler")
    if shutil.which("cmake") is None:
        lacking.append("cmake")
    if generator() is None:
        lacking.append("make or ninja")
    if not _has_openssl():
        lacking.append("the OpenSSL 3 headers")
    return lacking


def require() -> None:
    """Raise one :class:`RpcmeshError` that names everything missing and the command that installs all of it."""
    lacking = missing()
    if lacking:
        raise RpcmeshError(f"the native build needs {' and '.join(lacking)}", hint=install_command(lacking))


def install_command(lacking: list[str]) -> str:
    """One command for this machine's package manager; on macOS, Apple's tools come from xcode-select."""
    commands = []
    if platform.system() == "Darwin" and {"a C++ compiler", "make or ninja"} & set(lacking):
        commands.append("xcode-select --install")
    for column, (program, install) in enumerate(_INSTALLERS):
        if shutil.which(program) or (platform.system() == "Darwin" and program == "brew"):
            packages = [name for piece in lacking if (name := _PACKAGES[piece][column])]
            if packages:
                commands.append(f"{install} {' '.join(packages)}")
            break
    return "; ".join(commands) or f"install {', '.join(lacking)} with your package manager"


def _has_openssl() -> bool:
    cxx = compiler()
    if cxx is None:
        # Without a compiler the headers can only be looked for where they usually lie.
        return any(
            (root / "openssl" / "ssl.h").is_file() for root in (Path("/usr/include"), Path("/usr/local/include"))
        )
    root = openssl_root()
    include = [f"-I{root / 'include'}"] if root else []
    program = (
        "#include <openssl/opensslv.h>\n#include <openssl/ssl.h>\n#if OPENSSL_VERSION_MAJOR < 3\n#error old\n#endif\n"
    )
    command = [cxx, "-x", "c++", "-fsyntax-only", *include, "-"]
    return subprocess.run(command, input=program, capture_output=True, text=True, check=False).returncode == 0
