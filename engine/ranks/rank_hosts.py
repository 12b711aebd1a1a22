"""Where the ranks are: as `mlx.launch` says in the environment, or a hostfile whose ranks we start."""

import json
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx

from .rank_link import RankError

LOCAL = {"localhost", "127.0.0.1", "::1"}
LOCAL_ADDRESS = "127.0.0.1"
BACKENDS = ("ring", "nccl", "jaccl", "mpi")

BACKEND_OF = {
    "MLX_HOSTFILE": "ring",
    "MLX_IBV_DEVICES": "jaccl",
    "NCCL_HOST_IP": "nccl",
    "OMPI_COMM_WORLD_SIZE": "mpi",
}
"""The backend that a launcher has prepared, by a variable that it sets."""


@dataclass(frozen=True, slots=True)
class RankHosts:
    """The ranks of one model.

    address: of rank 0, where the others reach it.
    num_local: ranks that we start, all on this machine; 0 where a launcher has started them.
    settings: further variables of their environment.
    """

    backend: str
    address: str
    num_local: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)


def find_hosts(hostfile: str | None, environment: Mapping[str, str]) -> RankHosts | None:
    """Return the ranks that a launcher or a hostfile names; None where the model is on one device.

    Raises RankError, also where both name some.
    """
    launched = launched_hosts(environment)
    if hostfile is None:
        return launched
    if launched is not None:
        raise RankError("the ranks are started by mlx.launch already: leave --hosts out")
    return read_hostfile(Path(hostfile))


def launched_hosts(environment: Mapping[str, str]) -> RankHosts | None:
    """Return the ranks of which a launcher has started this process as one; None without launcher."""
    variable = next((name for name in BACKEND_OF if environment.get(name)), None)
    if variable is None or ("MLX_RANK" not in environment and variable != "OMPI_COMM_WORLD_SIZE"):
        return None
    value = environment[variable]
    address = {"nccl": value, "jaccl": environment.get("MLX_JACCL_COORDINATOR", "").rpartition(":")[0]}
    backend = BACKEND_OF[variable]
    if backend == "ring":
        address["ring"] = _first_address(Path(value))
    return RankHosts(backend, address.get(backend) or socket.gethostname())


def launched_rank(environment: Mapping[str, str]) -> int:
    """Return the rank that a launcher has given this process; 0 without launcher."""
    if launched_hosts(environment) is None:
        return 0
    return int(environment.get("MLX_RANK") or environment.get("OMPI_COMM_WORLD_RANK") or 0)


def _first_address(file: Path) -> str:
    """Return the address of rank 0 in the file of MLX's ring: a list of `address:port` for each rank."""
    try:
        return str(json.loads(file.read_text())[0][0]).rpartition(":")[0]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RankError(f"MLX_HOSTFILE {file} cannot be read") from error


def read_hostfile(file: Path) -> RankHosts:
    """Read a hostfile of `mlx.launch` whose hosts are this machine, once for each rank. Raises RankError."""
    try:
        data = json.loads(file.read_text())
        given = data if isinstance(data, dict) else {"hosts": data}
        names = [str(host["ssh"]) for host in given["hosts"]]
        backend = str(given.get("backend") or _own_backend())
        settings = dict(str(text).split("=", 1) for text in given.get("envs", []))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RankError(f"{file} is no hostfile of mlx.launch") from error
    if backend not in BACKENDS or not mx.distributed.is_available(backend):
        raise RankError(f"{file}: MLX has no backend {backend!r} here")
    if backend not in ("ring", "nccl"):
        raise RankError(f"{file}: ranks over {backend} are started by `mlx.launch ... pensieve serve ...`")
    if others := [name for name in names if name not in LOCAL]:
        raise RankError(
            f"{file} names {others[0]}: ranks on other machines are started by `mlx.launch --hostfile {file} "
            "pensieve serve ...`"
        )
    if len(names) < 2:
        raise RankError(f"{file} names fewer than two ranks")
    return RankHosts(backend, LOCAL_ADDRESS, len(names), settings)


def _own_backend() -> str:
    return "nccl" if mx.distributed.is_available("nccl") and not mx.metal.is_available() else "ring"


@contextmanager
def local_environments(hosts: RankHosts) -> Iterator[list[dict[str, str]]]:
    """Give the variables of each rank that we start, with ports that are free now, until all ranks have met.

    MLX reads the places of a ring from a file, which is there in the block. Raises RankError.
    """
    ranks = range(hosts.num_local)
    own: list[dict[str, str]] = [{**hosts.settings, "MLX_RANK": str(rank)} for rank in ranks]
    if not own:
        yield []
    elif hosts.backend == "nccl":
        port = str(free_ports(1)[0])
        shared = {"NCCL_HOST_IP": LOCAL_ADDRESS, "NCCL_PORT": port, "MLX_WORLD_SIZE": str(len(own))}
        devices = [{"CUDA_VISIBLE_DEVICES": name} for name in _devices(len(own))]
        yield [one | shared | device for one, device in zip(own, devices, strict=True)]
    else:
        with tempfile.TemporaryDirectory(prefix="pensieve-ring-") as folder:
            file = Path(folder) / "ring.json"
            file.write_text(json.dumps([[f"{LOCAL_ADDRESS}:{port}"] for port in free_ports(len(own))]))
            yield [one | {"MLX_HOSTFILE": str(file)} for one in own]


def _devices(count: int) -> list[str]:
    """Return the names of the first GPUs that this process may use, one for each rank. Raises RankError."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(number) for number in range(count)]
    if len(names) < count:
        raise RankError(f"{count} ranks need {count} GPUs: CUDA_VISIBLE_DEVICES names {len(names)}")
    return names[:count]


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody listens on now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOCAL_ADDRESS, 0))
        return [each.getsockname()[1] for each in sockets]
