"""Ray Train, without the processes that our runs do not need.

Ray Train 2.60 starts, beside the ranks, an actor for its controller, one through which ranks wait for each other, one
that asks for more machines, one that shards Ray Data sets and one that cleans up after a lost controller. Each imports
for about two seconds of a core, and the first step waits for them. Our driver runs the controller itself, ranks wait
for each other by torch.distributed, nobody asks Ray for machines, there are no Ray Data sets, and the driver ends what
it has started. This module reaches into Ray Train's internals, so pyproject.toml pins Ray's minor version.
"""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.train import ScalingConfig, TrainingFailedError
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling.default import RETRYABLE_CONTROLLER_ERRORS
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import Worker, WorkerGroup, state, worker_group
from ray.train.v2.api.config import FailureConfig, RunConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from windlass.engine import meeting
from windlass.engine.failures import classify
from windlass.errors import WindlassError

START_SECONDS = 180.0
"""How long ranks may take from the room they are given to their function, imports included. Ray waits for ever for one
whose node died at the wrong moment."""


def fit(
    function: Callable[[dict[str, Any], str], None],
    config: dict[str, Any],
    *,
    meet: Callable[[], str],
    ranks: int,
    on_gpus: bool,
    folder: str,
) -> None:
    """Call `function(config, place)` on every rank, where the place is what `meet()` returns on rank 0.

    `folder` is Ray Train's own. Raises WindlassError when a rank fails.
    """
    trainer = TrimmedTrainer(
        meeting.call,
        train_loop_config={"function": function, "config": config},
        backend_config=Meeting(meet),
        scaling_config=ScalingConfig(num_workers=ranks, use_gpu=on_gpus, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(  # type: ignore[arg-type]  # declared as Ray Train 1's
            name="train",
            storage_path=folder,
            # The driver has budgets of its own, and knows of other places; Ray Train would try these for ever.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        raise classify(error.worker_failures.values()) from error
    except ControllerError as error:
        if isinstance(error.controller_failure, RETRYABLE_CONTROLLER_ERRORS):
            raise WindlassError("RankFailed", "The ranks did not start: a worker is gone, or has no room.") from error
        raise classify([error.controller_failure]) from error
    except TrainingFailedError as error:
        raise classify([error]) from error


@dataclass
class Meeting(BackendConfig):
    """Rank 0 says where the ranks meet; they join their process group by themselves."""

    meet: Callable[[], str]

    @property
    def backend_cls(self) -> type[Backend]:
        """What Ray Train calls when the ranks have started."""
        return MeetingBackend


class MeetingBackend(Backend):
    """Asks rank 0, and tells all."""

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Before the ranks' function is called."""
        assert isinstance(backend_config, Meeting)
        worker_group.execute(meeting.tell, worker_group.execute_single(0, meeting.opened, backend_config.meet))


class NoSynchronization:
    """In the place of the actor through which ranks wait for each other in ray.train.report, which ours never call."""

    @classmethod
    def options(cls, **_: Any) -> type["NoSynchronization"]:
        """As an actor class has it."""
        return cls

    @classmethod
    def remote(cls, **_: Any) -> "NoSynchronization":
        """As an actor class has it."""
        return cls()


worker_group.SynchronizationActor = NoSynchronization  # type: ignore[assignment,attr-defined]
state._shutdown_sync_actor = lambda sync_actor: None


class GivenPlaces(FixedScalingPolicy):
    """As many ranks as were asked for; nobody is asked for machines."""

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        """Leave out the request for resources."""

    def _maybe_send_resource_request(self) -> None:
        pass


class RanksAlone(WorkerGroup):
    """Ranks whose controller is no actor, and whose environment is that of their machine's Ray.

    Those that do not come are given up: with their room, Ray ends them and all that waits for them. The room of those
    that die as they begin, which Ray Train forgets, is given back: later ranks would find none.
    """

    def _start_impl(self, worker_group_state_builder: Any) -> None:
        self._room: Any = None
        self._patience: threading.Timer | None = None
        try:
            super()._start_impl(worker_group_state_builder)
        except BaseException:
            if self._room is not None:
                self._room.shutdown()
            raise
        finally:
            if self._patience is not None:
                self._patience.cancel()

    def _create_placement_group(self, *arguments: Any) -> Any:
        self._room = super()._create_placement_group(*arguments)
        self._patience = threading.Timer(START_SECONDS, self._room.shutdown)
        self._patience.daemon = True
        self._patience.start()
        return self._room

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Any) -> dict[str, Any]:
        """Nothing of their own, so that processes which have started beforehand can become ranks."""
        return {}

    def _init_train_context_on_workers(
        self, workers: list[Worker], sync_actor: Any, train_context_args: dict[str, list[Any]]
    ) -> None:
        given = [
            worker.actor.init_train_context.remote(
                train_run_context=self._train_run_context,
                distributed_context=worker.distributed_context,
                synchronization_actor=None,
                storage_context=self._storage_context,
                worker_callbacks=self._worker_callbacks_to_propagate,
                controller_actor=None,
                **{name: values[number] for name, values in train_context_args.items()},
            )
            for number, worker in enumerate(workers)
        ]
        ray.get(given)


class ControllerHere(TrainController):
    """Ray Train's controller, in the driver's process."""

    worker_group_cls = RanksAlone


class TrimmedTrainer(DataParallelTrainer):
    """Ray Train's data-parallel trainer with fewer processes."""

    def _create_default_callbacks(self) -> list[Any]:
        needless = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, needless)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        arguments["scaling_policy"] = GivenPlaces(scaling_config=arguments["scaling_policy"].scaling_config)
        controller = ControllerHere(**arguments)
        asyncio.run(controller.run())  # type: ignore[no-untyped-call]
        return controller.get_result()
