"""Jobs on a real local cluster of two nodes, of which one and a worker are killed in mid-run."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from concept_conductor.distributed.cluster import connected, reach, shares
from concept_conductor.distributed.pool import RayRunner
from concept_conductor.distributed.worker import Worker, file_contents
from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.benchmark.benchmark import Benchmark
from concept_conductor.evaluation.benchmark.jobs import Job, chosen_methods, plan
from concept_conductor.evaluation.benchmark.runner import LocalRunner
from tests.compare import assert_same_image, mask_iou

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")


def jobs_of(file: Path) -> list[Job]:
    benchmark = Benchmark.load(file)
    return plan(benchmark, chosen_methods(benchmark), file.parent / "drawn")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch):
    """Two nodes with room for one worker each, and nothing left of them afterwards."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    small = {"num_cpus": 2, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    made = cluster_utils.Cluster(initialize_head=True, head_node_args=small)
    made.add_node(num_cpus=2, object_store_memory=80 * 2**20)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()
    _, alive = psutil.wait_procs(
        [child for child in psutil.Process().children(recursive=True) if child.pid not in before], timeout=10
    )
    assert not alive


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_killed_worker_and_a_killed_node_lose_and_double_nothing(benchmark_file: Path, cluster, caplog) -> None:
    jobs = jobs_of(benchmark_file)
    alone = {job.key: result for job, result in LocalRunner().generate_all(jobs, lambda job, report: None)}
    far = next(node for node in cluster.list_all_nodes() if not node.head)
    made, killed = {}, []
    for job, result in RayRunner(cluster.address).generate_all(jobs, lambda job, report: None):
        assert job.key not in made
        made[job.key] = result
        worker = result.record["worker"]
        if worker["node"] == far.node_id and "node" not in killed:
            cluster.remove_node(far, allow_graceful=False)
            killed.append("node")
        elif worker["node"] != far.node_id and "worker" not in killed:
            os.kill(worker["process"], signal.SIGKILL)
            killed.append("worker")
    assert sorted(killed) == ["node", "worker"]
    assert caplog.text.count("a Ray worker was lost") >= 2
    assert set(made) == set(alone)
    for key, result in alone.items():
        assert_same_image(made[key].image, result.image)
        assert mask_iou(made[key].masks, result.masks) >= 0.98


@pytest.mark.parametrize("address", ["nobody", "localhost:0", "ray://x"])
def test_no_address(address: str, benchmark_file: Path) -> None:
    with pytest.raises(ConductorError, match="expected HOST:PORT, ray://HOST:PORT, auto or local"):
        list(RayRunner(address).generate_all(jobs_of(benchmark_file), lambda job, report: None))


def test_nobody_answers(benchmark_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        start = time.perf_counter()
        with pytest.raises(ConductorError, match=f"no Ray cluster answers at '{address}'"):
            list(RayRunner(address).generate_all(jobs_of(benchmark_file), lambda job, report: None))
        monkeypatch.setenv("RAY_ADDRESS", address)  # where a former cluster was, for instance
        with pytest.raises(ConductorError, match="no Ray cluster answers at"):
            list(RayRunner("auto").generate_all(jobs_of(benchmark_file), lambda job, report: None))
    assert time.perf_counter() - start < 15


def test_no_cluster_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(address: str) -> str:
        raise ConnectionError("Could not find any running Ray instance. Please specify the one to connect to")

    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address", none)
    with pytest.raises(
        ConductorError, match=r"reached at 'auto' \(Could not find any running Ray instance\); start one"
    ):
        reach("auto")


def test_an_address_of_ray_client_without_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(**options: object) -> None:
        raise ModuleNotFoundError("No module named 'grpc'", name="grpc")

    monkeypatch.setattr(ray, "init", without)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"ray://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConductorError, match=f"'{address}' needs grpc; pip install 'concept-conductor.ray.'"):
            with connected(address):
                pass


def test_ray_does_not_start_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(**options: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(ray, "init", slow)
    with pytest.raises(
        ConductorError, match=r"not be started on this machine \(The current node timed out during startup\); try again"
    ):
        with connected("local"):
            pass


def test_shares_of_a_cluster() -> None:
    def cluster(*nodes: dict[str, float]) -> SimpleNamespace:
        return SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": node} for node in nodes])

    assert shares(cluster({"CPU": 5.0}, {"CPU": 4.0})) == (4, {"num_cpus": 2})
    assert shares(cluster({"CPU": 5.0}, {"CPU": 4.0}), 1) == (9, {"num_cpus": 1})
    assert shares(cluster({"CPU": 1.0})) == (1, {"num_cpus": 1})
    assert shares(cluster({"CPU": 64.0, "GPU": 8.0}), 4) == (8, {"num_gpus": 1, "num_cpus": 1})
    with pytest.raises(ConductorError, match="has neither CPUs nor GPUs to work on"):
        shares(cluster({"memory": 1.0}))


def test_folders_travel_like_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "adapter"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "adapter_model.bin").write_bytes(b"weights")
    (tmp_path / "mask.png").write_bytes(b"mask")
    monkeypatch.setattr(ray, "get", lambda reference: reference)
    worker = Worker(1)
    contents = {"a": file_contents(folder), "b": file_contents(tmp_path / "mask.png")}
    assert (worker._local_copy("a", "adapter", contents) / "unet" / "adapter_model.bin").read_bytes() == b"weights"
    assert worker._local_copy("b", "mask.png", contents).read_bytes() == b"mask"
    worker.folder.cleanup()
