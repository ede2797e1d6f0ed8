"""Makes the dashboards of Grafana, NAME.json, from their descriptions, NAME.yaml: `python deploy/grafana/make.py`.

A description says what a panel is for, what it asks and where it stands; all that Grafana wants besides is put in here.
The JSON is what is imported or provisioned, and stays in the repository: a test says when it is not up to date.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
SCHEMA_VERSION = 38  # Grafana 10's; later ones read it and bring it up to date
COLUMNS = 24
HEIGHTS = {"stat": 4, "timeseries": 8, "heatmap": 8, "state-timeline": 7, "bargauge": 8, "table": 8}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

VARIABLES = {
    "job": "label_values(llmgate_build_info, job)",
    "model": 'label_values(llmgate_ready_endpoints{job=~"$job"}, model)',
    "endpoint": 'label_values(llmgate_endpoint_info{job=~"$job"}, endpoint)',
    "node": 'label_values(llmgate_gpu_utilization_ratio{job=~"$job"}, node)',
}


def dashboard(name: str) -> dict[str, Any]:
    """The JSON model of NAME.yaml."""
    description = yaml.safe_load((HERE / f"{name}.yaml").read_text(encoding="utf-8"))
    return {
        "uid": f"llmgate-{name}",
        "title": f"llmgate: {description['title']}",
        "description": description["description"],
        "tags": ["llmgate"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,  # one cross-hair for all panels
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [
            {"type": "dashboards", "tags": ["llmgate"], "title": "llmgate", "asDropdown": False, "keepTime": True}
        ],
        "templating": {"list": [_datasource(), *map(_variable, description["variables"])]},
        "annotations": {"list": []},
        "panels": list(_panels(description["rows"])),
    }


def rendered(name: str) -> str:
    return json.dumps(dashboard(name), indent=1, ensure_ascii=False) + "\n"


def names() -> list[str]:
    return sorted(path.stem for path in HERE.glob("*.yaml"))


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": VARIABLES[name],
        "refresh": 2,  # whenever the time range changes
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _panels(rows: list[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows from top to bottom, each row's panels from left to right and wrapped at the edge."""
    number, top = 0, 0
    for row in rows:
        number += 1
        place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        yield {"id": number, "type": "row", "title": row["row"], "collapsed": False, "gridPos": place, "panels": []}
        top, left, height = top + 1, 0, 0
        for panel in row["panels"]:
            number += 1
            kind, width = panel.get("kind", "timeseries"), panel["width"]
            if left + width > COLUMNS:
                top, left, height = top + height, 0, 0
            yield _panel(number, kind, panel, {"x": left, "y": top, "w": width, "h": HEIGHTS[kind]})
            left, height = left + width, max(height, HEIGHTS[kind])
        top += height


def _panel(number: int, kind: str, panel: Mapping[str, Any], place: Mapping[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.get("unit", "short"), "thresholds": _thresholds(panel.get("thresholds"))}
    defaults |= {edge: panel[edge] for edge in ("min", "max") if edge in panel}
    if kind == "timeseries":
        shown = "line" if panel.get("thresholds") else "off"
        stacking = {"mode": "normal" if panel.get("stacked") else "none"}
        defaults["custom"] = {
            "fillOpacity": 25 if panel.get("stacked") else 0,
            "stacking": stacking,
            "showPoints": "never",
            "thresholdsStyle": {"mode": shown},
        }
    if "values" in panel:
        texts = {str(value): {"text": text, "color": color} for value, (text, color) in panel["values"].items()}
        defaults["mappings"] = [{"type": "value", "options": texts}]
    return {
        "id": number,
        "type": kind,
        "title": panel["title"],
        "description": panel["description"],
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(kind, panel),
        "transformations": _without(["Time", "Value"]) if kind == "table" else [],  # labels are what there is to see
        "targets": [_target(letter, kind, query) for letter, query in zip("ABCDEFGH", panel["queries"], strict=False)],
    }


def _without(columns: list[str]) -> list[dict[str, Any]]:
    return [{"id": "organize", "options": {"excludeByName": dict.fromkeys(columns, True)}}]


def _target(letter: str, kind: str, query: Mapping[str, str]) -> dict[str, Any]:
    target: dict[str, Any] = {
        "refId": letter,
        "datasource": DATASOURCE,
        "expr": " ".join(query["expr"].split()),
        "legendFormat": query.get("legend", "__auto"),
    }
    if kind == "heatmap":
        target |= {"format": "heatmap", "legendFormat": "{{le}}"}
    if kind in ("stat", "table", "bargauge"):
        target |= {"instant": True, "range": False}
    if kind == "table":
        target["format"] = "table"
    return target


def _options(kind: str, panel: Mapping[str, Any]) -> dict[str, Any]:
    if kind == "timeseries":
        return {
            "legend": {
                "displayMode": "table",
                "placement": "bottom",
                "calcs": panel.get("calcs", ["lastNotNull", "max"]),
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    if kind in ("stat", "bargauge"):
        background = (
            {"colorMode": "background", "graphMode": "none"} if kind == "stat" else {"orientation": "horizontal"}
        )
        return {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, **background}
    if kind == "heatmap":
        axis = {"unit": panel.get("unit", "short")}
        return {"calculate": False, "color": {"scheme": "Oranges", "mode": "scheme"}, "yAxis": axis, "cellGap": 1}
    if kind == "state-timeline":
        return {"mergeValues": True, "showValue": "never", "legend": {"showLegend": False}}
    return {"showHeader": True}


def _thresholds(steps: Mapping[float, str] | None) -> dict[str, Any]:
    """The color from each value on. Below the first it is green, or red where green is one of them: more is better."""
    steps = steps or {}
    base = "red" if "green" in steps.values() else "green"
    above = [{"color": color, "value": value} for value, color in steps.items()]
    return {"mode": "absolute", "steps": [{"color": base, "value": None}, *above]}


if __name__ == "__main__":
    for each in names():
        (HERE / f"{each}.json").write_text(rendered(each), encoding="utf-8")
