"""What pyproject.toml cannot say: with our CUDA kernels in it (`make cuda`) a wheel is for this platform only.

The kernels need neither torch nor Python's headers, so such a wheel still fits every version of both.
"""

from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel

KERNELS = Path(__file__).parent / "src" / "vlm3d_gs" / "kernels" / "libvlm3d_gs_kernels.so"


class WithKernels(Distribution):
    def has_ext_modules(self) -> bool:
        return KERNELS.is_file()


class AnyPython(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


setup(distclass=WithKernels, cmdclass={"bdist_wheel": AnyPython})
