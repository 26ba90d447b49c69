"""The weights that ranks start with: frozen ones whenever they start, trained ones where no checkpoint has them yet."""

from windlass.engine.bases import Base, base_weights
from windlass.errors import WindlassError
from windlass.models.build import RECOMPUTED, added_parameters, initialise_added, parameters_by_name
from windlass.models.decoder import assign_all
from windlass.models.foreign import AnyModel
from windlass.models.lora import adapters

MISSING_SHOWN = 4


def give_weights(model: AnyModel, base: Base | None, seed: int, *, trained: bool) -> None:
    """Set the trained weights, or the frozen ones, to the base's, or to random ones where the base has none."""
    parameters = parameters_by_name(model, trained=trained)
    adapted = {} if trained else {f"{name}.weight".replace(RECOMPUTED, ""): layer for name, layer in adapters(model)}
    shapes: dict[str, tuple[int, ...]] = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    shapes |= {name: (layer.out_features, layer.in_features) for name, layer in adapted.items()}
    inherited = shapes.keys() - added_parameters(model)
    if base is None and parameters:
        model.initialise(seed)
    if base is not None and inherited:
        weights = base_weights(base, causal="score.weight" not in dict(model.named_parameters()))
        if missing := sorted(inherited - weights.keys()):
            shown = ", ".join(missing[:MISSING_SHOWN]) + ", ..." * (len(missing) > MISSING_SHOWN)
            raise WindlassError("ConfigInvalid", f"spec.model.from: {base.description} has no {shown}")
        for name in inherited:
            if (theirs := weights[name].shape) != (ours := shapes[name]):
                raise WindlassError(
                    "ConfigInvalid",
                    f"spec.model.from: {base.description} has {name} of {list(theirs)}, and this job's is {list(ours)}",
                )
        assign_all({name: parameters[name] for name in inherited - adapted.keys()}, weights)
        for name, layer in adapted.items():
            layer.set_weight(weights[name])
    if trained:
        initialise_added(model, seed)
