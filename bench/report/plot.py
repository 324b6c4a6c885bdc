"""The plot: jobs per second of the no-op drain, a bar a row, as an SVG for light and dark pages."""

from typing import Any, Final
from xml.sax.saxutils import escape

from bench.report.table import number

LEFT: Final = 250
BARS: Final = 430
RIGHT: Final = 200
LINE: Final = 22
TOP: Final = 78
FOOT: Final = 30
LEGEND: Final = "Light bars: a job leaves the store before it has run, so a crash loses it."

STYLE: Final = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; font-size: 15px; }
  .faint { fill: #59636e; font-size: 12px; }
  .late { fill: #8c959f; } .pop { fill: #d0d7de; } .own { fill: #0969da; }
  .range { stroke: #59636e; stroke-width: 1.5; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .faint { fill: #9198a1; }
    .late { fill: #6e7681; } .pop { fill: #3d444d; } .own { fill: #4493f8; }
    .range { stroke: #9198a1; }
  }
"""


def plot(results: dict[str, Any]) -> str:
    """An SVG document; the longest bar first."""
    rows = [row for row in results["rows"] if row["scenario"] == "drain" and row["figures"]]
    rows.sort(key=lambda row: -row["figures"]["per_s"][0])
    most = max((row["figures"]["per_s"][2] for row in rows), default=1)
    width, height = LEFT + BARS + RIGHT, TOP + LINE * len(rows) + FOOT
    machine, run = results["machine"], results["run"]
    facts = (
        f"{machine['cpu']}, {machine['cores']} cores; {machine['system']}; "
        f"Python {machine['python']}, Go {machine['go']}"
    )
    method = (
        f"One worker command; Redis {machine['redis']}, fsync {run['fsync']}; "
        f"medians of {run['repeat']}, lines from least to greatest run"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        "<title>No-op jobs per second on Redis</title>",
        f"<style>{STYLE}</style>",
        '<text class="title" x="8" y="22">No-op jobs per second on Redis</text>',
        f'<text class="faint" x="8" y="42">{escape(facts)}</text>',
        f'<text class="faint" x="8" y="58">{escape(method)}</text>',
        *(_bar(row, TOP + LINE * at, most) for at, row in enumerate(rows)),
        f'<text class="faint" x="8" y="{height - 8}">{LEGEND}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _bar(row: dict[str, Any], y: int, most: float) -> str:
    middle, least, greatest = row["figures"]["per_s"]
    late = row["ack"].startswith("late")
    kind = "own" if row["rival"] == "ropeway" else "late" if late else "pop"
    name = escape(f"{row['rival']} {row['setting']} @{row['concurrency']}")
    ends = [LEFT + BARS * value / most for value in (middle, least, greatest)]
    center = y + 8
    return (
        f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end">{name}</text>'
        f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{ends[0] - LEFT:.1f}" height="16" rx="2"/>'
        f'<line class="range" x1="{ends[1]:.1f}" x2="{ends[2]:.1f}" y1="{center}" y2="{center}"/>'
        f'<text x="{ends[2] + 6:.1f}" y="{y + 12}">{number(middle)}'
        f'<tspan class="faint" dx="6">{escape(row["ack"])}</tspan></text>'
    )
