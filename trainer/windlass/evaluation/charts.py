"""The report's charts, as SVG that takes its colours from the page, so that one drawing is right in light and dark."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.style
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from windlass.evaluation.history import PARTS, History, Numbers, thin

# matplotlib wants colours, the page has variables: each colour here is replaced by the variable of its name. Not black,
# which matplotlib leaves out, as the default.
NAMES = ("ink", "line", "train", "validation", "baseline", *PARTS, "other")
COLOURS = {name: f"#0000{index:02d}" for index, name in enumerate(NAMES, start=1)}
STYLE: dict[Any, Any] = {
    "axes.edgecolor": COLOURS["line"],
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.xmargin": 0.01,
    "font.size": 9,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "windlass",  # the same run gives the same file
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"],
    "ytick.left": False,
}


def loss_chart(history: History, baseline: float | None) -> Markup:
    """Training and validation loss, and the baseline as a line."""
    with _chart(10.6, 3.7) as axes:
        _line(axes, history.train["step"], history.train["loss"], "train")
        axes.plot(
            history.validation["step"], history.validation["loss"], "o-", color=COLOURS["validation"], markersize=4
        )
        if baseline is not None:
            axes.axhline(baseline, color=COLOURS["baseline"], linestyle=(0, (4, 3)), linewidth=1.3)
        others = np.append(history.validation["loss"], [] if baseline is None else baseline)
        _bound(axes, np.append(history.train["loss"], others))
        return _svg(axes)


def line_chart(history: History, column: str) -> Markup:
    """One column over the steps."""
    with _chart(3.2, 2.1) as axes:
        _line(axes, history.train["step"], history.train[column], "train", smooth=column != "learning_rate")
        _bound(axes, history.train[column], floor=0)
        large = np.nanmax(history.train[column], initial=0) >= 1000
        axes.yaxis.set_major_formatter(EngFormatter(sep="") if large else FuncFormatter(lambda value, _: f"{value:g}"))
        return _svg(axes)


def score_chart(scores: dict[str, Numbers]) -> Markup:
    """A suite's score over the steps, with its interval."""
    with _chart(3.2, 2.1) as axes:
        paint = COLOURS["validation"]
        spread = np.nan_to_num([scores["value"] - scores["low"], scores["high"] - scores["value"]])
        axes.errorbar(
            scores["step"], scores["value"], yerr=spread, fmt="o-", color=paint, markersize=4, elinewidth=1, capsize=2
        )
        return _svg(axes)


def step_time_chart(history: History) -> Markup:
    """Seconds of a step, stacked by part."""
    steps = history.train["step"]
    curves = {name: thin(steps, values, points=250) for name, values in step_parts(history).items()}
    with _chart(10.6, 2.5) as axes:
        x = next(iter(curves.values())).steps
        stack = np.array([np.nan_to_num(curve.mean) for curve in curves.values()])
        if len(x) == 1:  # an area needs a width
            x, stack = np.append(x - 1, x + 1), np.repeat(stack, 2, axis=1)
        axes.stackplot(x, stack, colors=[COLOURS[name] for name in curves], linewidth=0)
        _bound(axes, stack.sum(axis=0), floor=0)
        axes.yaxis.set_major_formatter(EngFormatter(unit="s", sep=" "))
        return _svg(axes)


def step_parts(history: History) -> dict[str, Numbers]:
    """Seconds of each part of a step, and of what is left of the whole."""
    parts = {name: history.train[name] for name in PARTS}
    return parts | {"other": np.maximum(history.train["total"] - sum(parts.values()), 0)}


@contextmanager
def _chart(width: float, height: float) -> Iterator[Axes]:
    """Axes of a new chart; inches, of which the page makes its own."""
    with matplotlib.style.context(["default", STYLE]):
        left, right, bottom, top = 0.62, 0.12, 0.3, 0.1
        place = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
        axes = Figure(figsize=(width, height)).add_axes(place)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8 if width > 6 else 5, integer=True, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        yield axes


def _line(axes: Axes, steps: Numbers, values: Numbers, colour: str, smooth: bool = True) -> None:
    """What was logged; where it is noisy, faint, and its moving mean. A mark where there is one point only."""
    curve, paint = thin(steps, values), COLOURS[colour]
    if len(steps) == 1:
        axes.plot(steps, values, "o", color=paint, markersize=5)
        axes.set_xlim(steps[0] - 1, steps[0] + 1)
    elif smooth:
        axes.fill_between(curve.steps, curve.low, curve.high, color=paint, alpha=0.15, linewidth=0)
        axes.plot(curve.steps, curve.mean, color=paint, alpha=0.35, linewidth=0.8)
        axes.plot(curve.steps, curve.smooth, color=paint)
    else:
        axes.plot(curve.steps, curve.mean, color=paint)


def _bound(axes: Axes, values: Numbers, floor: float | None = None) -> None:
    """Leave single peaks out of the scale, such as a first step that is slow, or a loss that leaps before it is NaN."""
    finite = values[np.isfinite(values)]
    if len(finite):
        usual = float(np.quantile(finite, 0.98))
        if finite.max() > 3 * usual > 0:
            axes.set_ylim(top=1.5 * usual)
    if floor is not None:
        axes.set_ylim(bottom=floor)


def _svg(axes: Axes) -> Markup:
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = file.getvalue()
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg[svg.index("<svg") :])
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name.replace('_', '-')})")
    return Markup(svg)
