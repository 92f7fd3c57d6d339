# SPDX-License-Identifier: Apache-2.0
"""The CUDA source through NVIDIA's own compiler, for real architectures; it needs no GPU."""

import ctypes
import functools
import importlib.util
from pathlib import Path

import pytest

from reconstruction.backends.cupy_fdk import COMPILER_OPTIONS, source
from reconstruction.backends.launches import ARGUMENTS, BACK_PROJECTIONS, KERNELS
from tests.support.peers import require_peer

#: Name of the wheel -> the library in its folder of the namespace package `nvidia`.
WHEELS = {"nvidia-cuda-nvrtc": "cu13/lib/libnvrtc.so.13", "nvidia-cuda-nvrtc-cu12": "cuda_nvrtc/lib/libnvrtc.so.12"}
#: All architectures by the newest compiler, and one by that of CUDA 12, which CuPy is built for too.
COMPILED = [("nvidia-cuda-nvrtc", name) for name in ("sm_80", "sm_90", "sm_100")] + [
    ("nvidia-cuda-nvrtc-cu12", "sm_90")
]


@functools.cache
def nvrtc(wheel):
    """NVRTC of a wheel, or None."""
    found = importlib.util.find_spec("nvidia")
    folders = list(found.submodule_search_locations or ()) if found else []
    paths = [path for folder in folders if (path := Path(folder) / WHEELS[wheel]).is_file()]
    return ctypes.CDLL(str(paths[0])) if paths else None


def text_of(library, program, size_of, read):
    size = ctypes.c_size_t()
    assert getattr(library, size_of)(program, ctypes.byref(size)) == 0
    buffer = ctypes.create_string_buffer(size.value)
    assert getattr(library, read)(program, buffer) == 0
    return buffer.raw


def compiled(library, text, options):
    """(whether it compiled, the log, the machine code)."""
    program = ctypes.c_void_p()
    assert library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"fdk.cu", 0, None, None) == 0
    try:
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = library.nvrtcCompileProgram(program, len(options), given)
        log = text_of(library, program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog").decode()
        code = b"" if failed else text_of(library, program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN")
        return not failed, log, code
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def struct_checks(*, members):
    """Let the compiler say that each struct has the size and the members that `launches` packs."""
    lines = []
    for kernel, dtype in ARGUMENTS.items():
        struct = "".join(part.capitalize() for part in kernel.split("_"))
        lines.append(f'static_assert(sizeof({struct}) == {dtype.itemsize}, "{struct}");')
        lines += [
            f'static_assert(__builtin_offsetof({struct}, {name}) == {dtype.fields[name][1]}, "{struct}.{name}");'
            for name in dtype.names
            if members
        ]
    return "\n".join(lines)


@pytest.mark.parametrize(("wheel", "architecture"), COMPILED)
def test_the_source_compiles_without_a_warning_or_a_spill(wheel, architecture):
    library = nvrtc(wheel)
    require_peer(wheel, library is not None, f"pip install {wheel}")
    options = [*COMPILER_OPTIONS, f"--gpu-architecture={architecture}", "--ptxas-options=-v"]
    # CUDA 12's has no offsetof without a header.
    text = source() + struct_checks(members=wheel == "nvidia-cuda-nvrtc")
    done, log, code = compiled(library, text, options)
    assert done, log
    assert "warning" not in log, log
    assert code[:4] == b"\x7fELF"
    for kernel in KERNELS:
        assert b".text." + kernel.encode() in code
    spills = [line for line in log.splitlines() if "bytes stack frame" in line]
    kernels = [line.split("'")[1] for line in log.splitlines() if "Compiling entry function" in line]
    assert sorted(kernels) == sorted(KERNELS)
    # Kernels that run in the inner loops keep everything in registers.
    frames = dict(zip(kernels, spills, strict=True))
    assert all(" 0 bytes stack frame, 0 bytes spill stores" in frames[kernel] for kernel in BACK_PROJECTIONS)


def test_a_fault_in_the_source_is_seen():
    library = nvrtc("nvidia-cuda-nvrtc")
    require_peer("nvidia-cuda-nvrtc", library is not None, "pip install nvidia-cuda-nvrtc")
    broken = source().replace("const int col = blockIdx.x", "const int col = blockIdy.x")
    done, log, _ = compiled(library, broken, [*COMPILER_OPTIONS, "--gpu-architecture=sm_80"])
    assert not done
    assert "blockIdy" in log
