"""Puts the C library into the package: builds it with cargo, unless FUSED_LOSS_LIBRARY names one that is there."""

import os
import shutil
import subprocess
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent.parent


class WithLibrary(build_py):
    def run(self):
        super().run()
        library = os.environ.get("FUSED_LOSS_LIBRARY")
        if not library:
            target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
            subprocess.run(["cargo", "build", "--release", "-p", "fused-loss-capi"], cwd=ROOT, check=True)
            library = target / "release/libfused_loss.so"
        package = Path(self.build_lib) / "fused_loss"
        package.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, package / "libfused_loss.so")
        shutil.copy(ROOT / "capi/include/fused_loss.h", package)


class AnyPython(bdist_wheel):
    """The library is of this machine's kind, but of no Python's."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


class Binary(Distribution):
    def has_ext_modules(self):
        return True


setup(distclass=Binary, cmdclass={"build_py": WithLibrary, "bdist_wheel": AnyPython})
