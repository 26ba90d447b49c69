"""Ray Train, without the processes that one machine does not need.

Ray Train 2.60 starts, beside its controller and the ranks, an actor that asks for more machines, one that shards Ray
Data sets and one that cleans up after a lost controller. Each imports for about two seconds of a core, and the first
step waits for them. A run on one machine asks for no machines, has no Ray Data sets, and ends its cluster with its
driver. This module reaches into Ray Train's internals, so pyproject.toml pins Ray's minor version.
"""

from typing import Any

from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


class OneMachinePolicy(FixedScalingPolicy):
    """As many ranks as were asked for; nobody is asked for machines."""

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        """Leave out the request for resources."""

    def _maybe_send_resource_request(self) -> None:
        pass


class OneMachineTrainer(DataParallelTrainer):
    """Ray Train's data-parallel trainer with fewer processes."""

    def _create_default_callbacks(self) -> list[Any]:
        needless = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, needless)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        arguments["scaling_policy"] = OneMachinePolicy(scaling_config=arguments["scaling_policy"].scaling_config)
        return super()._initialize_and_run_controller(**arguments)
