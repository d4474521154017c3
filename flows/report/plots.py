"""Plots as inline SVG. Colours are the page's CSS variables, so a plot follows a light or dark scheme."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from io import StringIO
from typing import Any

from markupsafe import Markup, escape

from flows.numbers import short
from flows.report.distributions import place

# Matplotlib knows no CSS: it draws with these stand-ins, which are replaced in the SVG.
COLOURS = {
    "ink": "#010203",
    "muted": "#010204",
    "line": "#010205",
    "a": "#010206",
    "b": "#010207",
    "c": "#010208",
    "shade": "#010209",
}
STYLE = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
    "svg.hashsalt": "millrace",  # ids of the same plot are the same in every run
    "font.size": 10,
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "legend.frameon": False,
}
SIZE = (6.1, 3.1)  # inches of 72 units: about a phone's width, so that text shrinks little there


def training_plots(training: dict[str, Any]) -> list[Markup]:
    """Loss, learning rate, gradient norm, speed and evenness of the experts over the tokens, stages shaded."""
    curve = training["curve"]
    return [
        over_tokens(curve, "loss", "Training loss (nats a token)", smooth=True),
        over_tokens(curve, "lr", "Learning rate", floor=0),
        over_tokens(curve, "grad_norm", "Gradient norm, before clipping", log=True),
        over_tokens(curve, "tokens_per_second", "Tokens a second", floor=0),
        over_tokens(curve, "of_dense", "FLOP/s of the model over those of a dense product", floor=0),
        over_tokens(curve, "load_max", "Busiest expert against an even share, worst layer", floor=1),
    ]


def over_tokens(
    curve: list[dict], name: str, title: str, smooth: bool = False, log: bool = False, floor: float | None = None
) -> Markup:
    """One number of the training steps."""

    def draw(axes) -> None:
        tokens, values = [point["tokens"] for point in curve], [point[name] for point in curve]
        axes.plot(tokens, values, color=COLOURS["a"], linewidth=0.7 if smooth else 1.2, alpha=0.45 if smooth else 1)
        if smooth:
            axes.plot(tokens, smooth_curve(values), color=COLOURS["a"], linewidth=1.8)
        _scales(axes, log, floor)
        _shade_stages(axes, curve, tokens)
        axes.set_xlabel("tokens")
        axes.set_xlim(0, max(tokens, default=1))

    return figure(draw, title)


def smooth_curve(values: list[float]) -> list[float]:
    """Exponential mean over about a fortieth of the curve, corrected for its start."""
    means, mean, weight, keep = [], 0.0, 0.0, 1 - 1 / (1 + len(values) / 40)
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + 1 - keep
        means.append(mean / weight)
    return means


def _scales(axes, log: bool, floor: float | None) -> None:
    """Plain numbers at the ticks, and room above the curve for the stages' names."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    low, high = axes.get_ylim()
    low = low if floor is None else min(floor, low)
    axes.set_ylim(low, high * (high / low) ** 0.13 if log else high + 0.13 * (high - low))


def _shade_stages(axes, curve: list[dict], tokens: list[float]) -> None:
    """A band behind every other stage, and its name at the top."""
    starts = [i for i, point in enumerate(curve) if i == 0 or point["stage"] != curve[i - 1]["stage"]]
    for number, (first, last) in enumerate(zip(starts, [*starts[1:], len(curve)], strict=True)):
        left, right = (0 if first == 0 else tokens[first - 1]), tokens[last - 1]
        if number % 2:
            axes.axvspan(left, right, color=COLOURS["shade"], linewidth=0)
        top = dict(transform=axes.get_xaxis_transform(), ha="center", va="top")
        axes.text((left + right) / 2, 0.985, curve[first]["stage"], fontsize=9, color=COLOURS["muted"], **top)


def bits_plot(domain: dict[str, Any]) -> Markup:
    """A domain's bits per byte before training and after every stage, over its two references."""

    def draw(axes) -> None:
        names = ["before" if i == 0 else one["stage"] for i, one in enumerate(domain["stages"])]
        values = [one["bits_per_byte"] for one in domain["stages"]]
        axes.plot(range(len(names)), values, color=COLOURS["a"], marker="o", markersize=4, linewidth=1.6)
        for i, value in enumerate(values):
            axes.annotate(f"{value:.2f}", (i, value), xytext=(4, 5), textcoords="offset points", fontsize=9.5)
        for name, said, colour in (("unigram", "unigram", "b"), ("gzip", "gzip -9", "c")):
            upper = domain[name] == max(domain["unigram"], domain["gzip"])
            axes.axhline(domain[name], color=COLOURS[colour], linewidth=1.2, linestyle="--")
            at = dict(xycoords=("axes fraction", "data"), xytext=(0, 2 if upper else -3), textcoords="offset points")
            look = dict(color=COLOURS[colour], fontsize=9.5, ha="right", va="bottom" if upper else "top")
            axes.annotate(f"{said} {domain[name]:.2f}", (1, domain[name]), **at, **look)
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.2, len(names) - 0.1)
        axes.set_ylim(0, 1.12 * max([*values, domain["unigram"], domain["gzip"]]))

    return figure(draw, f"{domain['domain']}: held-out bits per byte")


def drift_plot(source: dict[str, Any]) -> Markup:
    """PSI of the signals that moved most, over a source's deliveries."""

    def draw(axes) -> None:
        names = [one["snapshot"] for one in source["deliveries"]]
        for (signal, values), colour in zip(source["psi"].items(), ("a", "b", "c"), strict=False):
            axes.plot(range(len(names)), values, color=COLOURS[colour], marker="o", markersize=4, label=signal)
        if source["limit"] is not None:
            axes.axhline(source["limit"], color=COLOURS["muted"], linewidth=1, linestyle="--", label="limit")
        axes.set_xticks(range(len(names)), names)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=9)

    return figure(draw, f"{source['source']}: PSI against the last accepted delivery")


def figure(draw: Callable[..., None], title: str) -> Markup:
    """An SVG of one pair of axes. `title` also tells a screen reader what is there."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        picture = Figure(figsize=SIZE, layout="constrained")
        FigureCanvasSVG(picture)
        axes = picture.add_subplot()
        axes.set_title(title)
        axes.set_axisbelow(True)
        draw(axes)
        target = StringIO()
        picture.savefig(
            target,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Type": None, "Format": None},
        )
    return inline(target.getvalue(), title)


def inline(svg: str, title: str) -> Markup:
    """Matplotlib's SVG as it may stand in a page several times: no prolog, no sizes, its own ids, the page's
    colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', svg).group()
    svg = re.sub(r"<svg[^>]*>", f'<svg {box} role="img" aria-label="{escape(title)}">', svg, count=1)
    prefix = re.sub(r"\W+", "-", title)
    svg = re.sub(r'\bid="([^"]*)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]*)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]*)"', rf'href="#{prefix}-\1"', svg)
    for name, stand_in in COLOURS.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    return Markup(re.sub(r"\n\s*", "\n", svg))


def histogram(entry: dict[str, Any]) -> Markup:
    """Bars of a signal, heights by ln(1 + documents); what fails a rule on the signal in the colour of what is
    dropped."""
    width, height, base = 200, 90, 74
    top = math.log1p(max(entry["counts"])) or 1
    step = width / len(entry["counts"])
    parts = []
    for i, (count, failed) in enumerate(zip(entry["counts"], entry["failed"], strict=True)):
        tall = 60 * math.log1p(count) / top
        bad = tall * failed / max(1, count)
        for kind, y, part in (("good", base - tall, tall - bad), ("bad", base - bad, bad)):
            if part:
                box = f'x="{i * step:.1f}" y="{y:.1f}" width="{step - 0.8:.1f}" height="{part:.1f}"'
                parts.append(f'<rect class="{kind}" {box}/>')
    for mark in entry["thresholds"]:
        x = width * place(entry, mark["value"])
        anchor, beside = ("end", x - 3) if x > width / 2 else ("start", x + 3)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="{base}"/>')
        parts.append(f'<text class="mark" x="{beside:.1f}" y="14" text-anchor="{anchor}">{short(mark["value"])}</text>')
    parts.append(f'<text x="0" y="{base + 13}">{short(entry["low"])}</text>')
    parts.append(f'<text x="{width}" y="{base + 13}" text-anchor="end">{short(entry["high"])}</text>')
    name = escape(f"{entry['domain']} {entry['signal']}: histogram")
    return Markup(
        f'<svg class="histogram" viewBox="0 0 {width} {height}" role="img" aria-label="{name}">{"".join(parts)}</svg>'
    )


def tiers(members: list[dict[str, Any]], order: list[str]) -> Markup:
    """Documents by quality score, stacked: the tiers, best at the bottom, and what was dropped, at the top."""
    counts = {member["tier"]: member["counts"] for member in members}
    layers = [(name, pale("good", i)) for i, name in enumerate(order) if name in counts]
    layers += [("dropped", "var(--bad)")] if "dropped" in counts else []
    heights = [sum(stack) for stack in zip(*counts.values(), strict=True)]
    width, base, scale = 430, 150, 140 / max(1, *heights)
    step, below, parts = width / len(heights), [0] * len(heights), []
    for name, colour in layers:
        for i, count in enumerate(counts[name]):
            tall, y = scale * count, base - scale * (below[i] + count)
            below[i] += count
            box = f'x="{i * step:.1f}" y="{y:.1f}" width="{step - 1.2:.1f}" height="{tall:.1f}"'
            parts.append(f'<rect {box} style="fill: {colour}"/>')
    for x, anchor, said in ((0, "start", "0"), (width / 2, "middle", "quality score"), (width, "end", "1")):
        parts.append(f'<text x="{x}" y="{base + 14}" text-anchor="{anchor}">{said}</text>')
    keys = "".join(f'<li><i style="background: {colour}"></i>{escape(name)}</li>' for name, colour in layers)
    head = f'class="histogram" viewBox="0 0 {width} {base + 18}" role="img" aria-label="quality scores by tier"'
    return Markup(f'<svg {head}>{"".join(parts)}</svg><ul class="legend">{keys}</ul>')


def stream_colour(stream: str, facts: dict[str, Any]) -> str:
    """Its source's colour, paler for the lower tiers."""
    source, tier = stream.split(".", 1)
    number, depth = [row["source"] for row in facts["funnel"]].index(source), facts["tiers"].index(tier)
    return pale(f"s{number % 8}", depth)


def pale(variable: str, depth: int) -> str:
    """A colour of the page, with more of the paper in it the deeper."""
    return f"color-mix(in srgb, var(--{variable}) {max(25, 100 - 28 * depth)}%, var(--paper))"
