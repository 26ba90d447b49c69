"""The weights that ranks start with: frozen ones whenever they start, trained ones where no checkpoint has them yet."""

from windlass.engine.bases import Base, base_weights
from windlass.errors import WindlassError
from windlass.models.build import added_parameters, initialise_added, parameters_by_name
from windlass.models.decoder import Decoder, assign_all


def give_weights(model: Decoder, base: Base | None, seed: int, *, trained: bool) -> None:
    """Set the trained weights, or the frozen ones, to the base's, or to random ones where the base has none."""
    parameters = parameters_by_name(model, trained=trained)
    inherited = parameters.keys() - added_parameters(model)
    if base is None and parameters:
        model.initialise(seed)
    if base is not None and inherited:
        weights = base_weights(base)
        if missing := sorted(inherited - weights.keys()):
            raise WindlassError("ConfigInvalid", f"spec.model.from: {base.description} has no {', '.join(missing)}")
        assign_all({name: parameters[name] for name in inherited}, weights)
    if trained:
        initialise_added(model, seed)
