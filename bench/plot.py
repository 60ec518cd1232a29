"""The README's plot: four panels of bars, written as SVG by hand."""

from html import escape

from bench.measure import Rows
from bench.peers import SERVERS

WIDTH, PANEL, BAR, GAP, TOP = 860, 410, 18, 8, 34
OURS, THEIRS = "#2563eb", "#94a3b8"
LABELS = {"nchan": "nchan (no JWT)", "naive": "naive FastAPI"}

Bar = tuple[str, float, bool]  # label, value, ours


def _servers(rows: Rows, key: str) -> list[Bar]:
    found = [(name, rows.get(f"{key}.{name}", {}).get("median")) for name in SERVERS]
    return [(LABELS.get(name, name), float(value), name == "notifier") for name, value in found if value is not None]


def _panels(rows: Rows) -> list[tuple[str, str, int, list[Bar]]]:
    delivered = _servers(rows, "single.per_s")
    for key, label in (("queue_batch", "notifier, /batch, queued"), ("batch", "notifier, /batch")):
        if (value := rows.get(f"{key}.per_s.notifier", {}).get("median")) is not None:
            delivered.insert(1, (label, float(value), True))
    return [
        ("Notifications per second", "", 0, delivered),
        ("Broadcast to 10,000: deliveries per second", "", 0, _servers(rows, "broadcast.per_s")),
        ("Handshakes per second", "", 0, _servers(rows, "connect.handshakes_per_s")),
        ("Memory per idle connection, KB (less is better)", " KB", 1, _servers(rows, "connect.kb_per_connection")),
    ]


def _panel(x: int, y: int, title: str, unit: str, digits: int, bars: list[Bar]) -> list[str]:
    out = [f'<text x="{x}" y="{y + 14}" class="title">{escape(title)}</text>']
    longest = max((value for _, value, _ in bars), default=1.0) or 1.0
    for number, (label, value, ours) in enumerate(bars):
        top = y + TOP - 8 + number * (BAR + GAP)
        length = max(1.0, value / longest * 170)
        out.append(f'<text x="{x + 150}" y="{top + 13}" text-anchor="end">{escape(label)}</text>')
        colour = OURS if ours else THEIRS
        out.append(f'<rect x="{x + 158}" y="{top}" width="{length:.1f}" height="{BAR}" rx="2" fill="{colour}"/>')
        out.append(f'<text x="{x + 164 + length:.1f}" y="{top + 13}">{value:,.{digits}f}{unit}</text>')
    return out


def svg(rows: Rows) -> str:
    panels = [panel for panel in _panels(rows) if panel[3]]
    body: list[str] = []
    y = 12
    for left in range(0, len(panels), 2):
        pair = panels[left : left + 2]
        for column, panel in enumerate(pair):
            body += _panel(12 + column * (PANEL + 20), y, *panel)
        y += TOP + max(len(panel[3]) for panel in pair) * (BAR + GAP) + 10
    style = "text{font:13px system-ui,sans-serif;fill:#1f2937}.title{font-weight:600}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img" '
        f'aria-label="Notifier beside other servers, measured on one machine">\n<style>{style}</style>\n'
        f'<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>\n' + "\n".join(body) + "\n</svg>\n"
    )
