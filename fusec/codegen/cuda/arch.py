"""The GPU architectures kernels are assembled for, and how to ask the driver which one is here."""

from __future__ import annotations

from dataclasses import dataclass

from fusec.errors import FusecError
from fusec.ir import gpus


@dataclass(frozen=True)
class Arch:
    """One `ptxas -arch` name. `cc` is what Numba wants: (major, minor) or (major, minor, 'a').

    A suffix `a` marks architecture-specific code: it runs on that compute capability alone.
    `shared`: bytes of shared memory of an SM (CUDA programming guide, technical
    specifications); of a block's, the system takes 1024.
    """

    name: str
    cc: tuple[int, int] | tuple[int, int, str]
    shared: int

    @property
    def room(self) -> int:
        """Bytes of shared memory of which two blocks fit an SM."""
        return self.shared // 2 - 1024

    @property
    def block_shared(self) -> int:
        """Bytes of shared memory that a block may have."""
        return self.shared - 1024

    @property
    def sms(self) -> int:
        """Multiprocessors of the GPU that stands for it (see `fusec.ir.gpus.for_arch`)."""
        gpu = gpus.for_arch(self.name)
        assert gpu is not None  # the table has one for every architecture
        return gpu.sms

    @property
    def number(self) -> int:
        """Compute capability as one number, 90 for 9.0, to compare with `Instruction.since`."""
        return self.cc[0] * 10 + self.cc[1]

    @property
    def has_clusters(self) -> bool:
        """Whether blocks can exchange through shared memory."""
        return self.number >= 90

    def runs_on(self, major: int, minor: int) -> bool:
        """Whether a GPU of that compute capability executes cubins of this architecture."""
        if len(self.cc) == 3:
            return (major, minor) == self.cc[:2]
        return major == self.cc[0] and minor >= self.cc[1]


ARCHS: dict[str, Arch] = {
    arch.name: arch
    for arch in (
        Arch("sm_80", (8, 0), 164 << 10),  # A100
        Arch("sm_86", (8, 6), 100 << 10),  # A10, RTX 30
        Arch("sm_89", (8, 9), 100 << 10),  # L4, L40, RTX 40
        Arch("sm_90a", (9, 0, "a"), 228 << 10),  # H100, H200
        Arch("sm_100a", (10, 0, "a"), 228 << 10),  # B200
        Arch("sm_120a", (12, 0, "a"), 100 << 10),  # RTX 50
    )
}


NATIVE = ("native", "cuda")
"""Names for the GPU of this machine, whichever it is: the second is PyTorch's."""
ASKED = f"target {' or '.join(NATIVE)} (the GPU of this machine): "
"""How an error begins where there is none."""


def find_arch(name: str) -> Arch:
    """The architecture of that name; an unknown one is an error that lists the known."""
    try:
        return ARCHS[name]
    except KeyError:
        raise FusecError(
            f"unknown architecture '{name}': expected one of {', '.join(ARCHS)}"
        ) from None


class NoGpu(FusecError):
    """There is nothing to run on. `found` says why, without the advice that the message ends in."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(f"{found}: {advice}")
        self.found = found


def arch_for(major: int, minor: int) -> Arch:
    """The newest known architecture that runs on a GPU of compute capability `major.minor`."""
    fitting = [arch for arch in ARCHS.values() if arch.runs_on(major, minor)]
    if not fitting:
        raise FusecError(
            f"the GPU has compute capability {major}.{minor}: kernels can be built for "
            f"{', '.join(ARCHS)} only; use --target cpu"
        )
    return max(fitting, key=lambda arch: arch.number)


def native_arch(device: int = 0) -> Arch:
    """The architecture of the GPU in this machine, by its driver (target `native`).

    Raises FusecError when the `cuda` extra, the driver or the GPU is missing.
    """
    try:
        from cuda.bindings import driver
    except ImportError:
        raise missing_extra() from None
    hint = "use target cpu, or name an architecture such as sm_90a"
    try:
        (status,) = driver.cuInit(0)
    except RuntimeError:  # the bindings raise this when libcuda.so cannot be loaded
        raise FusecError(f"{ASKED}no NVIDIA driver on this machine; {hint}") from None
    if status != driver.CUresult.CUDA_SUCCESS:
        raise FusecError(f"{ASKED}the driver finds no GPU ({status.name}); {hint}")
    attribute = driver.CUdevice_attribute
    numbers = []
    for which in (
        attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
        attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
    ):
        status, number = driver.cuDeviceGetAttribute(which, device)
        if status != driver.CUresult.CUDA_SUCCESS:
            raise FusecError(f"{ASKED}no GPU number {device} ({status.name}); {hint}")
        numbers.append(int(number))
    return arch_for(*numbers)


def native_name(device: int = 0) -> str:
    """The name of the GPU that `native_arch` found, as its driver gives it."""
    from cuda.bindings import driver

    status, name = driver.cuDeviceGetName(256, device)
    if status != driver.CUresult.CUDA_SUCCESS:
        raise FusecError(f"{ASKED}the GPU has no name ({status.name})")
    return str(name.split(b"\0")[0].decode())


def missing_extra() -> FusecError:
    """The error for work that needs the optional CUDA packages."""
    return FusecError("the CUDA target needs its compiler: pip install 'fusec[cuda]'")
