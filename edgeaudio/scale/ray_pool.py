"""Workers of Ray, on this machine or on a cluster: a task a shard, tried again where its worker was killed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from edgeaudio.parity.streams import Networks, StreamCounts
from edgeaudio.scale.counting import Numbered, count_shard
from edgeaudio.scale.origin import Origin, open_networks
from edgeaudio.scale.shards import Shard
from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.errors import ParityError

RETRIES = 3
"""Times a shard is begun again after its worker died; what ends four workers is no accident."""
WAITING_PER_WORKER = 3
"""Tasks that are handed out for each worker: none runs dry, and shards wait here rather than in the cluster."""
STORE_BYTES = 100 << 20
"""Of a local cluster's object store, which holds the bundle and records of a few numbers."""
STARTS = 3
"""Times a local cluster is begun: Ray gives up after 30 s, and a busy machine takes longer now and then."""

_opened: dict[str, Networks] = {}
"""Of a worker process: the networks it listens with, by the digest of their origin."""


class RayPool:
    """Tasks in a cluster that is connected."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._task = ray.remote(num_cpus=1, max_retries=RETRIES)(count_on_worker)

    def counts(
        self, origin: Origin, shards: Sequence[Numbered], settings: Sequence[DetectorConfig]
    ) -> Iterator[tuple[int, StreamCounts]]:
        """See :class:`edgeaudio.scale.counting.Pool`.

        Raises:
            EdgeAudioError: As it was raised on the worker.
            ParityError: Worker after worker died of one shard.
        """
        ray, waiting = self._ray, list(shards)[::-1]
        shared, own = ray.put(origin), tuple(settings)
        running: dict[Any, Numbered] = {}
        limit = WAITING_PER_WORKER * max(1, int(ray.cluster_resources().get("CPU", 1)))
        try:
            while waiting or running:
                while waiting and len(running) < limit:
                    i, shard = waiting.pop()
                    running[self._task.remote(shared, shard, own)] = (i, shard)
                (done,), _ = ray.wait(list(running), num_returns=1)
                i, shard = running.pop(done)
                yield i, self._result(done, shard)
        finally:
            for task in running:
                ray.cancel(task, force=True)

    def _result(self, task: Any, shard: Shard) -> StreamCounts:
        from ray.exceptions import RayTaskError, WorkerCrashedError

        try:
            counts: StreamCounts = self._ray.get(task)
        except RayTaskError as error:
            raise error.cause from None
        except WorkerCrashedError as error:
            rule = f"ended {RETRIES + 1} workers in a row"
            raise ParityError(f"shard={shard.name!r} {rule}; look for lack of memory, or leave it out") from error
        return counts


def count_on_worker(origin: Origin, shard: Shard, settings: Sequence[DetectorConfig]) -> StreamCounts:
    """What a task does; the networks are opened once a process."""
    if origin.digest not in _opened:
        _opened.clear()
        _opened[origin.digest] = open_networks(origin)
    return count_shard(_opened[origin.digest], shard, settings)


@contextmanager
def ray_pool(*, workers: int | None = None, address: str | None = None) -> Iterator[RayPool]:
    """Workers for as long as the block lasts; a cluster that this process is connected to already is used and left.

    Args:
        workers: Processes on this machine; None for one a core.
        address: Of a cluster, as ``ray.init`` takes it; edgeaudio and the recordings must be there too.

    Raises:
        ParityError: Ray is not installed, or no cluster can be begun or reached.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reports what it is used for unless told not to
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 otherwise: on a busy machine workers would stand still
    try:
        import ray
    except ImportError as error:
        raise ParityError("ray is not installed; run: pip install 'edgeaudio[scale]'") from error
    if ray.is_initialized():
        yield RayPool(ray)
        return
    try:
        _connect(ray, workers, address)
        yield RayPool(ray)
    finally:
        ray.shutdown()


def _connect(ray: Any, workers: int | None, address: str | None) -> None:
    quiet = {"log_to_driver": False, "configure_logging": False}
    if address is not None:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ParityError(f"address={address!r} must name a Ray cluster ({reason}); start one there") from error
        return
    for attempt in range(STARTS):
        try:
            ray.init(num_cpus=workers, include_dashboard=False, object_store_memory=STORE_BYTES, **quiet)
            return
        except Exception as error:  # Ray raises Exception itself where its processes are late
            ray.shutdown()
            if attempt == STARTS - 1:
                reason = str(error).splitlines()[0]
                raise ParityError(f"Ray does not start here ({reason}); run without --workers") from error
