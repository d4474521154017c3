"""Plots as inline SVG, and numbers as words. Colours are the page's CSS variables, so a plot follows a light or dark scheme."""

from __future__ import annotations

import math
import re
from io import StringIO
from typing import Any

from markupsafe import Markup, escape

# Matplotlib knows no CSS: it draws with these stand-ins, which are replaced in the SVG.
COLOURS = {"ink": "#010203", "muted": "#010204", "line": "#010205", "a": "#010206", "b": "#010207", "c": "#010208", "shade": "#010209"}
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
    loss = _over_tokens(curve, "Training loss (nats a token)", [("loss", point_values(curve, "loss"), "a")], smooth=True)
    rate = _over_tokens(curve, "Learning rate", [("learning rate", point_values(curve, "lr"), "a")])
    norm = _over_tokens(curve, "Gradient norm, before clipping", [("norm", point_values(curve, "grad_norm"), "a")], log=True)
    speed = _over_tokens(curve, "Tokens a second", [("tokens/s", point_values(curve, "tokens_per_second"), "a")], floor=0)
    busiest = ("busiest expert / mean", point_values(curve, "load_max"), "b")
    even = _over_tokens(curve, "Expert load: busiest expert / mean, worst layer (1 is even)", [busiest], floor=1)
    return [loss, rate, norm, speed, even]


def point_values(curve: list[dict], name: str) -> list[float]:
    return [point.get(name, math.nan) for point in curve]


def smoothed(values: list[float], keep: float = 0.9) -> list[float]:
    """Exponential mean, corrected for its start."""
    found, mean, weight = [], 0.0, 0.0
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + 1 - keep
        found.append(mean / weight)
    return found


def _over_tokens(curve: list[dict], title: str, series: list[tuple], smooth: bool = False, log: bool = False, floor: float | None = None) -> Markup:
    def draw(axes) -> None:
        tokens = [point["tokens"] / 1e6 for point in curve]
        _shade_stages(axes, curve, tokens)
        for _, values, colour in series:
            axes.plot(tokens, values, color=COLOURS[colour], linewidth=0.7 if smooth else 1.3, alpha=0.45 if smooth else 1)
            if smooth:
                axes.plot(tokens, smoothed(values), color=COLOURS[colour], linewidth=1.8)
        if log:
            axes.set_yscale("log")
        if floor is not None:
            axes.set_ylim(bottom=floor)
        axes.set_xlabel("million tokens")
        axes.margins(x=0.01)

    return figure(draw, title)


def _shade_stages(axes, curve: list[dict], tokens: list[float]) -> None:
    """A band behind every other stage, and its name at the top."""
    starts = [i for i, point in enumerate(curve) if i == 0 or point["stage"] != curve[i - 1]["stage"]]
    for number, (first, last) in enumerate(zip(starts, [*starts[1:], len(curve)], strict=True)):
        left, right = (0 if first == 0 else tokens[first - 1]), tokens[last - 1]
        if number % 2:
            axes.axvspan(left, right, color=COLOURS["shade"], linewidth=0)
        axes.text((left + right) / 2, 0.985, curve[first]["stage"], transform=axes.get_xaxis_transform(), ha="center", va="top",
                  fontsize=9, color=COLOURS["muted"])  # fmt: skip


def bits_plot(domain: dict[str, Any]) -> Markup:
    """A domain's bits per byte before training and after every stage, over its two references."""

    def draw(axes) -> None:
        names = ["before" if one["stage"] == "before training" else one["stage"] for one in domain["stages"]]
        values = [one["bits_per_byte"] for one in domain["stages"]]
        axes.plot(range(len(names)), values, color=COLOURS["a"], marker="o", markersize=4, linewidth=1.6)
        for i, value in enumerate(values):
            axes.annotate(f"{value:.2f}", (i, value), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=9)
        ends = len(names) - 0.45
        for name, colour in (("unigram", "b"), ("gzip", "c")):
            axes.axhline(domain[name], color=COLOURS[colour], linewidth=1.2, linestyle="--")
            axes.text(ends, domain[name], f" {'gzip -9' if name == 'gzip' else name} {domain[name]:.2f}", color=COLOURS[colour], fontsize=9, va="center")
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.3, ends)
        axes.set_ylim(0, 1.12 * max([*values, domain["unigram"], domain["gzip"]]))

    return figure(draw, f"{domain['domain']}: held-out bits per byte")


def figure(draw, title: str) -> Markup:
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
        picture.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Type": None, "Format": None})
    return inline(target.getvalue(), title)


def inline(svg: str, title: str) -> Markup:
    """Matplotlib's SVG as it may stand in a page several times: no prolog, no sizes, its own ids, the page's colours."""
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
    """Bars of a signal, heights by ln(1 + documents); what fails a rule on the signal in the colour of what is dropped."""
    width, height, base = 240, 96, 76
    top = math.log1p(max(entry["counts"])) or 1
    step = width / len(entry["counts"])
    parts = []
    for i, (count, failed) in enumerate(zip(entry["counts"], entry["failed"], strict=True)):
        tall = 60 * math.log1p(count) / top
        bad = tall * failed / max(1, count)
        for kind, y, part in (("good", base - tall, tall - bad), ("bad", base - bad, bad)):
            if part:
                parts.append(f'<rect class="{kind}" x="{i * step:.1f}" y="{y:.1f}" width="{step - 0.8:.1f}" height="{part:.1f}"/>')
    for mark in entry["thresholds"]:
        x = width * _place_of(entry, mark["value"])
        anchor = "end" if x > width / 2 else "start"
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="{base}"/>')
        parts.append(f'<text class="mark" x="{x + (-3 if anchor == "end" else 3):.1f}" y="14" text-anchor="{anchor}">{short(mark["value"])}</text>')
    parts.append(f'<text x="0" y="{base + 13}">{short(entry["low"])}</text>')
    parts.append(f'<text x="{width}" y="{base + 13}" text-anchor="end">{short(entry["high"])}</text>')
    name = escape(f"{entry['domain']} {entry['signal']}: histogram")
    return Markup(f'<svg class="histogram" viewBox="0 0 {width} {height}" role="img" aria-label="{name}">{"".join(parts)}</svg>')


def tiers(members: list[dict[str, Any]], order: list[str]) -> Markup:
    """Documents by quality score, stacked: the tiers, and what was dropped, at the top."""
    names = [*(tier for tier in order if any(m["tier"] == tier for m in members)), "dropped"]
    counts = {member["tier"]: member["counts"] for member in members}
    stacks = [[counts.get(name, [0] * len(members[0]["counts"]))[i] for name in names] for i in range(len(members[0]["counts"]))]
    width, base, top = 430, 150, max(1, *(sum(stack) for stack in stacks))
    step, parts = width / len(stacks), []
    for i, stack in enumerate(stacks):
        below = 0
        for number, count in enumerate(stack):
            tall = 140 * count / top
            y, fill = base - tall - 140 * below / top, "var(--bad)" if number == len(stack) - 1 else _tint(number)
            parts.append(f'<rect x="{i * step:.1f}" y="{y:.1f}" width="{step - 1.2:.1f}" height="{tall:.1f}" style="fill: {fill}"/>')
            below += count
    parts += [f'<text x="{x}" y="{base + 14}" text-anchor="{a}">{t}</text>' for x, a, t in ((0, "start", "0"), (width, "end", "1"))]
    parts.append(f'<text x="{width / 2}" y="{base + 14}" text-anchor="middle">quality score</text>')
    keys = "".join(f'<li><i style="background: {"var(--bad)" if name == "dropped" else _tint(i)}"></i>{escape(name)}</li>' for i, name in enumerate(names))
    svg = f'<svg class="histogram" viewBox="0 0 {width} {base + 18}" role="img" aria-label="quality scores by tier">{"".join(parts)}</svg>'
    return Markup(f'{svg}<ul class="legend">{keys}</ul>')


def _tint(tier: int) -> str:
    return f"color-mix(in srgb, var(--good) {max(20, 100 - 30 * tier)}%, var(--paper))"


def _place_of(entry: dict, value: float) -> float:
    low, high, value = (math.log1p(v) if entry["log"] else v for v in (entry["low"], entry["high"], value))
    return (value - low) / (high - low)


def short(value: float | None) -> str:
    """Three digits: 0.25, 1,024, 12.3k, 4.56M."""
    if value is None:
        return ""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):.3g}{letter}"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def size(n_bytes: float) -> str:
    """Bytes in decimal units."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= limit:
            return f"{n_bytes / limit:,.1f} {unit}"
    return f"{n_bytes:,.0f} B"


def share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "–"


FORMATS = {"n": lambda value: f"{value:,.0f}", "short": short, "size": size, "share": share, "index_of": lambda found, one: found.index(one)}
