#!/usr/bin/env python3
"""Writes the Grafana dashboards of the chart. usage: make_dashboards.py [--check]

--check writes nothing and exits 1 if a committed dashboard differs from what would be written. Standard library only.
"""

import json
import pathlib
import sys

OUT = pathlib.Path(__file__).resolve().parent.parent / "chart/files/dashboards"
SELECT = 'namespace=~"$namespace", job=~"$job"'
WIDTH = 24


def rate(metric, by="", labels=""):
    """sum by (...) of a counter's rate over Grafana's interval."""
    extra = f", {labels}" if labels else ""
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({metric}{{{SELECT}{extra}}}[$__rate_interval]))"


def gauge(metric, by="", labels=""):
    extra = f", {labels}" if labels else ""
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} ({metric}{{{SELECT}{extra}}})"


def quantiles(metric, *levels):
    return [(f"histogram_quantile({q}, {rate(metric + '_bucket', 'le')})", f"p{q * 100:g}") for q in levels]


def panel(title, unit, queries, *, kind="timeseries", width=8, height=8, stack=False, text="", maximum=None):
    """`queries`: (PromQL, legend) pairs. `text` is the help behind the panel's (i)."""
    defaults = {"unit": unit, "min": 0}
    if unit == "short":
        defaults.pop("min")
    if maximum is not None:
        defaults["max"] = maximum
    if kind == "timeseries":
        defaults["custom"] = {"fillOpacity": 30 if stack else 8, "lineWidth": 1, "showPoints": "never",
                              "stacking": {"mode": "normal" if stack else "none"}}
    instant = kind != "timeseries"
    targets = [{"refId": chr(ord("A") + i), "datasource": {"type": "prometheus", "uid": "${datasource}"}, "expr": expr,
                "legendFormat": legend, "instant": instant, "range": not instant,
                **({"format": "table"} if kind == "table" else {})}
               for i, (expr, legend) in enumerate(queries)]
    return {"type": kind, "title": title, "description": text, "size": (width, height), "targets": targets,
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": {"legend": {"displayMode": "list", "placement": "bottom"}} if kind == "timeseries" else {}}


def variable(name, source):
    return {"name": name, "type": "query", "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "query": {"query": f"label_values({source}, {name})", "refId": name}, "definition":
            f"label_values({source}, {name})", "includeAll": True, "allValue": ".*", "multi": True, "refresh": 2,
            "current": {"text": "All", "value": "$__all"}}


def dashboard(uid, title, description, panels):
    x = y = row = 0
    placed = []
    for number, each in enumerate(panels, 1):
        width, height = each.pop("size")
        if x + width > WIDTH:
            x, y, row = 0, y + row, 0
        placed.append({"id": number, "gridPos": {"x": x, "y": y, "w": width, "h": height}, **each})
        x, row = x + width, max(row, height)
    return {
        "uid": uid, "title": title, "description": description, "tags": ["liftserve"], "editable": True,
        "schemaVersion": 37, "version": 1, "refresh": "30s", "time": {"from": "now-1h", "to": "now"}, "timezone": "",
        "annotations": {"list": []}, "panels": placed,
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
            variable("namespace", "liftserve_build_info"), variable("job", "liftserve_build_info")]}}


SERVICE = dashboard("liftserve-service", "LiftServe / Service", "Is it up, is it fast, is it full?", [
    panel("Error budget burn (1 = a month's budget in a month)", "short", [
        (f"liftserve:request_errors:ratio_rate1h{{{SELECT}}} / 0.001", "errors, 1 h"),
        (f"liftserve:slow_first_tokens:ratio_rate1h{{{SELECT}}} / 0.01", "first token, 1 h")], width=12,
          text="Objectives: 99.9 % of answers without a server fault, 99 % of first tokens within a second."),
    panel("Servers", "short", [(f"count(liftserve_build_info{{{SELECT}}})", "answering"),
                               (gauge("liftserve_draining"), "draining")], kind="stat", width=4),
    panel("Version", "short", [(f"count by (version, build_type) (liftserve_build_info{{{SELECT}}})",
                                "{{version}} {{build_type}}")], kind="table", width=8),
    panel("Answers by code", "reqps", [(rate("liftserve_requests_total", "code"), "{{code}}")], stack=True),
    panel("Refused before work was spent", "reqps", [(rate("liftserve_requests_rejected_total", "reason"),
                                                      "{{reason}}")]),
    panel("Requests running and waiting", "short", [(gauge("liftserve_requests_running"), "running"),
                                                    (gauge("liftserve_requests_waiting"), "waiting")]),
    panel("Time to first token", "s", quantiles("liftserve_time_to_first_token_seconds", 0.5, 0.95, 0.99)),
    panel("Between tokens", "s", quantiles("liftserve_inter_token_latency_seconds", 0.5, 0.95, 0.99)),
    panel("Whole answer", "s", quantiles("liftserve_e2e_request_latency_seconds", 0.5, 0.95, 0.99)),
    panel("Where the time goes (mean)", "s", [
        (f"{rate(f'liftserve_request_{part}_time_seconds_sum')} / {rate(f'liftserve_request_{part}_time_seconds_count')}",
         part) for part in ("queue", "prefill", "decode")], stack=True),
    panel("Tokens generated", "short", [(rate("liftserve_generation_tokens_total", "variant"), "{{variant}}")],
          stack=True),
    panel("Prompt tokens", "short", [(rate("liftserve_prompt_tokens_total", "source"), "{{source}}")], stack=True),
])

MEMORY = dashboard("liftserve-memory", "LiftServe / Memory and billing", "What is resident, and who answers for it.", [
    panel("Resident by kind", "bytes", [(gauge("liftserve_memory_resident_bytes", "kind"), "{{kind}}")], stack=True,
          text="Weights count what each variant adds to the coarser ones, so the areas sum to the total."),
    panel("Weights by variant (what each adds)", "bytes", [
        (gauge("liftserve_memory_resident_bytes", "variant", 'kind="weights"'), "{{variant}}")], stack=True),
    panel("Accounted, unattributed and capacity", "bytes", [
        (f"sum (liftserve:memory_accounted_bytes:sum{{{SELECT}}})", "accounted"),
        (gauge("liftserve_memory_unattributed_bytes"), "unattributed"),
        (gauge("liftserve_memory_capacity_bytes"), "capacity")],
          text="Unattributed is negative while pages of the weights have not been touched yet."),
    panel("Memory by who answers for it", "bytes", [
        (rate("liftserve_memory_byte_seconds_total", "tenant"), "{{tenant}}")], stack=True, width=12,
          text="Byte-seconds a second. __idle__ is memory that nobody used, __overhead__ the server's own."),
    panel("GiB-hours in the shown range", "short", [
        ("sum by (tenant, kind) (increase(liftserve_memory_byte_seconds_total"
         f"{{{SELECT}}}[$__range])) / 2^30 / 3600", "{{tenant}} {{kind}}")], kind="table", width=12,
          text="For a look. Bills are made from the ledger, never from here."),
    panel("Idle share (1 h)", "percentunit", [(f"liftserve:memory_idle:ratio_rate1h{{{SELECT}}}", "idle")], maximum=1),
    panel("Attention state in use", "percentunit", [(f"max (liftserve_kv_cache_usage_ratio{{{SELECT}}})", "fullest"),
                                                    (f"avg (liftserve_kv_cache_usage_ratio{{{SELECT}}})", "mean")],
          maximum=1),
    panel("Memory x time per token", "decbytes", [
        (rate("liftserve_memory_byte_seconds_total", labels='tenant!~"__.*"') + " / "
         + rate("liftserve_generation_tokens_total"), "byte-seconds a token")],
          text="What a generated token cost its tenant; coarser variants cost less."),
])

ROUTER = dashboard("liftserve-router", "LiftServe / Router and precision", "Which precision is served, and why.", [
    panel("Decisions by variant", "reqps", [(rate("liftserve_router_decisions_total", "variant"), "{{variant}}")],
          stack=True),
    panel("Decisions by reason", "reqps", [(rate("liftserve_router_decisions_total", "reason"), "{{reason}}")],
          stack=True),
    panel("Mean lambda of answers", "short", [(f"liftserve:served_lambda:avg_rate5m{{{SELECT}}}", "served")], maximum=1,
          text="A variant of precision lambda stores 16^lambda bits a weight."),
    panel("Complexity of prompts", "short", quantiles("liftserve_router_complexity_score", 0.1, 0.5, 0.9), maximum=1),
    panel("Time of a decision", "s", quantiles("liftserve_router_decision_seconds", 0.5, 0.99)),
    panel("Floors that could not be met", "percentunit", [
        (f"liftserve:precision_floor_refusals:ratio_rate15m{{{SELECT}}}", "refused")]),
    panel("First token by variant (p95)", "s", [
        ("histogram_quantile(0.95, " + rate("liftserve_time_to_first_token_seconds_bucket", "le, variant") + ")",
         "{{variant}}")], width=12),
    panel("Resident variants", "short", [
        (f"max by (model, variant, bits_per_weight, bytes) (liftserve_variant_info{{{SELECT}}})", "")], kind="table",
          width=12),
])


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    stale = 0
    for each in (SERVICE, MEMORY, ROUTER):
        path = OUT / f"{each['uid']}.json"
        text = json.dumps(each, indent=1) + "\n"
        if sys.argv[1:] == ["--check"]:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                print(f"{path} is not what make_dashboards.py writes; run it without --check")
                stale = 1
        else:
            path.write_text(text, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main())
