"""Stub libraries, with which MindSpore's Ascend and GPU plugins load on a machine that has neither.

The wheel carries both plugins, linked with libraries of CANN and CUDA. A stub library has every name that a plugin
needs, as functions which do nothing. Then graphs are compiled in earnest: types are checked, kernels are selected and
created. Values mean nothing, and nothing can be executed; see compiling.py.

The names are read from the wheel that is installed: what its libraries leave undefined, and what they look up as they
run, whose names stand among their texts.
"""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

TOOLS = "gcc", "g++", "nm", "c++filt"

# --- Ascend: what a function must do besides returning 0, by what its C++ name begins or reads like

ZERO = "xorl %eax, %eax"
ASCEND_ANSWERS = (
    (r"ge::OperatorFactory::IsExistOp\(", ["movl $1, %eax"]),
    # Constructors leave an empty object. Operator has a table of virtual functions ahead of its members.
    (r"ge::Operator::Operator\(", [ZERO, *(f"movq %rax, {at}(%rdi)" for at in (8, 16, 24, 32))]),
    (r"ge::(\w+)::\1\(", [ZERO, "movq %rax, (%rdi)", "movq %rax, 8(%rdi)"]),
    # Setters return the object that they are called on.
    (r"ge::Operator::(Set|Update)\w+\(", ["movq %rdi, %rax"]),
    # An object that is returned by value, all of its 24 bytes zero: an empty vector is one.
    (r"ge::(OperatorFactory::CreateOperator|Session::GetCompiledGraphSummary|TensorDesc::GetShape|Shape::GetDims|"
     r"Tensor::GetTensorDesc|Graph::GetDirectNode|GNode::Get(Inputs|Outputs)Size|GNode::Get(In|Out)ControlNodes|"
     r"GNode::Get(In|Out)DataNodesAndPortIndexs)\(",
     [ZERO, *(f"movq %rax, {at}(%rdi)" for at in (0, 8, 16)), "movq %rdi, %rax"]),
)
ASCEND_C = """
#include <map>
#include <string>
#include <string.h>
extern "C" {
const char *aclrtGetSocName() { return "Ascend910B1"; }
int rtGetSocVersion(char *version, unsigned length) { strncpy(version, aclrtGetSocName(), length); return 0; }
unsigned long __stack_chk_guard = 0xdeadbeef;
void *status_factory() __asm__("_ZN2ge13StatusFactory8InstanceEv");
void *status_factory() { static std::map<unsigned, std::string> texts; return &texts; }
void *tiling_factory() __asm__("_ZN8optiling23CTilingDataClassFactory11GetInstanceEv");
void *tiling_factory() { static char zeros[65536]; return zeros; }
}
"""
ASCEND_LINKED = ("ascend_hal", "ascendcl", "c_sec", "ge_runner", "graph", "hccl", "msprofiler", "nnopbase", "platform",
                 "runtime")
ASCEND_OPENED = ("acl_op_compiler", "acl_tdt_channel", "acl_tdt_queue", "aclnn_ops_infer", "ascendcl", "hccl",
                 "msprofiler", "nnopbase", "opapi", "opapi_math", "opapi_nn")
ASCEND_LOOKED_UP = re.compile(r"(acl|Acl|Hccl|Msprof|mstx|prof)\w+")
ASCEND_PLUGIN = "libmindspore_ascend.so.2", "libmindspore_ops_ascend.so", "ascend"

# --- GPU

GPU_C = """
#include <stdlib.h>
#include <string.h>
#define HANDLE(name) int name(void **handle) { *handle = (void *)0x10; return 0; }
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaMemGetInfo(size_t *available, size_t *total) { *available = *total = 8ul << 30; return 0; }
int cudaMalloc(void **memory, size_t size) { *memory = calloc(1, size < 1ul << 28 ? size : 1ul << 28); return 0; }
int cudaGetDeviceProperties(void *properties, int device) {
  char *at = properties;                                // of CUDA 11
  memset(at, 0, 700);
  strcpy(at, "stub");
  *(size_t *)(at + 288) = 8ul << 30;                    // memory
  *(size_t *)(at + 296) = 49152;                        // shared memory of a block
  *(int *)(at + 304) = 65536;                           // registers of a block
  *(int *)(at + 308) = 32;                              // threads of a warp
  *(int *)(at + 320) = 1024;                            // threads of a block
  for (int i = 0; i < 3; i++) { *(int *)(at + 324 + 4 * i) = 1024; *(int *)(at + 336 + 4 * i) = 65535; }
  *(int *)(at + 360) = 8;                               // sm_80
  *(int *)(at + 388) = 108;                             // multiprocessors
  return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 75 ? 8 : attribute == 76 ? 0 : 1024;
  return 0;
}
const char *cudaGetErrorString(int error) { return "stub"; }
const char *cudaGetErrorName(int error) { return "stub"; }
const char *cudnnGetErrorString(int error) { return "stub"; }
int cudaFree(void *memory) { return 0; }
HANDLE(cudaStreamCreate) HANDLE(cudaEventCreate) HANDLE(cudnnCreate) HANDLE(cublasCreate_v2) HANDLE(cusolverDnCreate)
HANDLE(cusparseCreate)
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { return cudaStreamCreate(stream); }
int cudaStreamCreateWithPriority(void **stream, unsigned flags, int priority) { return cudaStreamCreate(stream); }
int cudaEventCreateWithFlags(void **event, unsigned flags) { return cudaEventCreate(event); }
"""
GPU_PLUGIN = "libmindspore_gpu.so.11.6", "gpu/libcuda_ops.so.11", "gpu11.6"
GPU_LINKED = re.compile(r"NEEDED.*\[(lib(?:cu|nv)\w+\.so\.[\d.]+)\]")


def missing_tools() -> list[str]:
    return [tool for tool in (*TOOLS, "readelf") if shutil.which(tool) is None]


@functools.cache
def mindspore() -> Path:
    spec = importlib.util.find_spec("mindspore")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def environment(device: str, folder: Path) -> dict[str, str]:
    """What a process needs besides its own environment to have `device`, whose stubs are built in a folder."""
    return ascend(folder) if device == "Ascend" else gpu(folder)


def ascend(folder: Path) -> dict[str, str]:
    library = mindspore() / "lib"
    plugin = library / "plugin"
    if not (folder / "built").is_file():
        opened = folder / "libcann" / "lib64"      # MindSpore cuts the path of the one above it behind "cann"
        opened.mkdir(parents=True)
        files = libraries(plugin, ASCEND_PLUGIN)
        functions = {name: answer(readable) for name, readable in undefined(files, library).items()}
        stub = build(folder / "libcann.so", functions, ASCEND_C, ".cc")
        for name in ASCEND_LINKED:
            build(folder / f"lib{name}.so", {}, "", ".c", linked=stub)
        named = build(opened / "libnamed.so", {name: [ZERO] for name in looked_up(files)}, "", ".c")
        for name in ASCEND_OPENED:
            shutil.copy(named, opened / f"lib{name}.so")
        (folder / "built").touch()
    shared_memory = plugin / "ascend/ms_kernels_symmetric_memory/shmem/shmem/lib"
    return {"LD_LIBRARY_PATH": ":".join(map(str, (folder, library, plugin, plugin / "ascend", shared_memory))),
            "MS_SIMULATION_LEVEL": "1", "RANK_SIZE": "1", "RANK_ID": "0"}


def gpu(folder: Path) -> dict[str, str]:
    library = mindspore() / "lib"
    plugin = library / "plugin"
    if not (folder / "built").is_file():
        (folder / "bin").mkdir(parents=True)
        files = libraries(plugin, GPU_PLUGIN)
        stub = build(folder / "libstub.so", {name: [ZERO] for name in undefined(files, library)}, GPU_C, ".c")
        for name in sorted({name for file in files for name in needed(file)}):
            build(folder / name, {}, "", ".c", linked=stub)
        compiler = folder / "bin" / "nvcc"      # whose release MindSpore goes by
        compiler.write_text('#!/bin/sh\necho "Cuda compilation tools, release 11.6, V11.6.124"\n')
        compiler.chmod(0o755)
        (folder / "built").touch()
    return {"LD_LIBRARY_PATH": ":".join(map(str, (folder, library, plugin, plugin / "gpu11.6"))),
            "CUDA_HOME": str(folder), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


def libraries(plugin: Path, names: Iterable[str]) -> list[Path]:
    """The shared objects of these names, and in folders of these names."""
    found = []
    for name in names:
        at = plugin / name
        found += sorted(at.rglob("*.so*")) if at.is_dir() else [at]
    return found


def symbols(file: Path, *options: str) -> set[str]:
    listed = subprocess.run(["nm", "-D", "--format=posix", *options, str(file)], capture_output=True, text=True)
    return {line.split()[0] for line in listed.stdout.splitlines() if line.split()[1:2] != ["w"]}


def undefined(files: list[Path], library: Path) -> dict[str, str]:
    """Names that these files need and nothing of the wheel has, with how they read in C++.

    Those of the system carry its version, as in memcpy@GLIBC_2.14, and are at hand; CUDA's carry a library's name.
    """
    wanted = {name.partition("@")[0] for file in files for name in symbols(file, "--undefined-only")
              if "@" not in name or "@lib" in name}
    for file in library.rglob("*.so*"):
        if file.name == "libakg.so":        # has CUDA's names for itself, and is no part of the plugin
            continue
        wanted -= symbols(file, "--defined-only")
    names = sorted(wanted)
    readable = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return dict(zip(names, readable.stdout.splitlines(), strict=True))


def answer(readable: str) -> list[str]:
    return next((code for pattern, code in ASCEND_ANSWERS if re.match(pattern, readable)), [ZERO])


def looked_up(files: list[Path]) -> list[str]:
    """Names among the texts of these files; of aclnn operators the function that sizes their memory, too."""
    texts = {text.decode() for file in files
             for text in re.findall(rb"(?<=\0)[A-Za-z_]\w{3,80}(?=\0)", file.read_bytes())}
    names = {text for text in texts if ASCEND_LOOKED_UP.fullmatch(text)}
    return sorted(names | {f"{name}GetWorkspaceSize" for name in names if name.startswith("aclnn")})


def needed(file: Path) -> list[str]:
    listed = subprocess.run(["readelf", "-d", str(file)], capture_output=True, text=True)
    return GPU_LINKED.findall(listed.stdout)


def build(file: Path, functions: Mapping[str, list[str]], source: str, suffix: str, *,
          linked: Path | None = None) -> Path:
    """A shared object of functions in assembly, weak beside those of a C or C++ source, and linked with another."""
    code = "".join(f'.weak "{name}"\n.type "{name}", @function\n"{name}":\n'
                   + "".join(f" {line}\n" for line in (*body, "ret")) for name, body in functions.items())
    parts = [file.with_suffix(".s"), file.with_suffix(suffix)]
    parts[0].write_text(f'.text\n{code}.section .note.GNU-stack, "", @progbits\n')
    parts[1].write_text(source)
    subprocess.run(["g++" if suffix == ".cc" else "gcc", "-shared", "-fPIC", "-w", *map(str, parts), "-o", str(file),
                    f"-Wl,-soname,{file.name}"]
                   + (["-Wl,--no-as-needed", str(linked), f"-Wl,-rpath,{linked.parent}"] if linked else []),
                   check=True)
    for part in parts:
        part.unlink()
    return file
