"""Compile one shared library per instruction set with the system's C++ compiler: plain C ABI, tied to no Python."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, ExecError

FLAGS = ["-std=c++17", "-O3", "-fopenmp", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
# GCC 12's own AVX-512 header trips -Wuninitialized (GCC bug 105593), and POWER's loops that might not run do.
QUIET = ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", *QUIET]
VARIANTS = {
    "x86_64": {"generic": [], "avx2": AVX2, "avx512": AVX512, "avx512bf16": [*AVX512, "-mavx512bf16"]},
    "ppc64le": {
        "generic": ["-U__VSX__"],  # the portable code, though the compiler has VSX in any case
        "power8": ["-mcpu=power8", *QUIET],
        "power9": ["-mcpu=power9", *QUIET],
        "power10": ["-mcpu=power10", *QUIET],
    },
}


def machine() -> str:
    """Return the machine that is compiled for; `QUIRE_CPU_MACHINE` names another when cross-compiling."""
    return os.environ.get("QUIRE_CPU_MACHINE", platform.machine())


def extensions() -> list[Extension]:
    """Return one library per variant. OpenMP is not linked: at run time the one that torch has loaded serves."""
    variants = VARIANTS.get(machine(), {"generic": []})
    return [
        Extension(
            f"quire_kernels_cpu.{name}",
            [f"csrc/variants/{name}.cpp"],
            depends=sorted(map(str, Path("csrc").glob("*.h"))),
            extra_compile_args=[*FLAGS, *flags],
            language="c++",
        )
        for name, flags in variants.items()
    ]


class BuildLibraries(build_ext):
    """Name the results `libquire_VARIANT.so`, and say plainly when there is no compiler."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def get_ext_filename(self, fullname: str) -> str:
        *package, name = fullname.split(".")
        return str(Path(*package, f"libquire_{name}.so"))

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return ext.export_symbols

    def copy_file(self, infile: str, outfile: str, *args: object, **options: object) -> tuple[str, bool]:
        """Put a file in place by renaming: a process that has the old library loaded keeps it whole."""
        fresh = f"{outfile}.new"
        _, copied = super().copy_file(infile, fresh, *args, **options)
        Path(fresh).replace(outfile)
        return outfile, copied

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except (CompileError, ExecError, FileNotFoundError) as error:
            sys.exit(f"quire-kernels-cpu needs a C++17 compiler with OpenMP: apt install g++, or set CXX ({error})")


class PlainWheel(bdist_wheel):
    """The libraries fit every Python of their platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", re.sub(r"[-.]", "_", super().get_tag()[2])


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildLibraries, "bdist_wheel": PlainWheel})
