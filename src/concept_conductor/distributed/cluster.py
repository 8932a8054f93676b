"""Reaching a Ray cluster, or saying at once why not."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from concept_conductor.errors import ConductorError

TIMEOUT = 5.0
"""Seconds to wait for an address to answer; Ray itself would wait for minutes."""
CPU_SHARE = 2
"""CPUs for each worker on machines without GPU, where nothing else is asked for."""


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connect Ray to ``address`` as long as the block lasts.

    Args:
        address: see :func:`reach`. A connection that is there already is used and left alone.

    Raises:
        ConductorError: Ray is not installed, or there is no cluster at that address.
    """
    ray = _imported()
    if ray.is_initialized():
        yield ray
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning about its future default
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here tells nobody about it
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options["include_dashboard"] = False
    try:
        ray.init(address=reach(address), **options)
    except ImportError as error:  # ray:// needs more than Ray itself
        raise ConductorError(f"'{address}' needs {error.name}; pip install 'concept-conductor[ray]'") from error
    except ConductorError:
        raise
    except Exception as error:  # Ray raises plain ones too, such as for a node that is slow to start
        ray.shutdown()
        raise _unreachable(address, error) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def reach(address: str) -> str:
    """Look at once whether a cluster answers, for which Ray would wait for minutes.

    Args:
        address: ``HOST:PORT``, ``ray://HOST:PORT``, "auto" (``$RAY_ADDRESS``, or the cluster of this machine), or
            "local" (a cluster of this machine alone, ended afterwards).

    Returns:
        Where it is: "auto" as ``HOST:PORT``.

    Raises:
        ConductorError: Ray is not installed, nobody answers, or it is no address.
    """
    _imported()
    if address == "local":
        return address
    if address == "auto":
        from ray._private.services import canonicalize_bootstrap_address  # what ray.init itself asks

        try:
            address = canonicalize_bootstrap_address("auto") or "auto"
        except (ConnectionError, ValueError) as error:
            raise _unreachable(address, error) from error
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and host and port.isdigit() and 0 < int(port) < 65536):
        raise ConductorError(f"the Ray address '{address}' is none; expected HOST:PORT, ray://HOST:PORT, auto or local")
    try:
        socket.create_connection((host.strip("[]"), int(port)), TIMEOUT).close()
    except OSError as error:
        raise ConductorError(
            f"no Ray cluster answers at '{address}' ({error.strerror or error}); check the address and that ray start "
            "--head runs there"
        ) from error
    return address


def _imported() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConductorError("Ray is not installed; pip install 'concept-conductor[ray]'") from error
    return ray


def _unreachable(address: str, error: Exception) -> ConductorError:
    reason = str(error).strip().splitlines()[0].split(". ")[0].rstrip(".") if str(error).strip() else "no answer"
    if address == "local":
        return ConductorError(
            f"Ray could not be started on this machine ({reason}); try again when it has less to do, or without --ray"
        )
    return ConductorError(
        f"no Ray cluster could be reached at '{address}' ({reason}); start one with ray start --head, or use --ray "
        "local"
    )


def shares(ray: Any, cpus: int = CPU_SHARE) -> tuple[int, dict[str, float]]:
    """Return how many workers the cluster has room for, and what each takes: a GPU, or up to ``cpus`` CPUs.

    Raises:
        ConductorError: it has room for none.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if gpus:
        return gpus, {"num_gpus": 1, "num_cpus": 1}
    share = min(cpus, max((int(node.get("CPU", 0)) for node in nodes), default=0))
    if not share:
        raise ConductorError("the Ray cluster has neither CPUs nor GPUs to work on; start nodes with ray start")
    return int(sum(node.get("CPU", 0) // share for node in nodes)), {"num_cpus": share}
