#!/usr/bin/env python3
"""Takes one version's schema out of a CustomResourceDefinition, without its prose, and closes it: an object that lists its
properties takes no others, as `kubectl --validate=strict` has it. usage: take.py CRD.yaml VERSION OUT.json [PATH:NAME,NAME]...

PATH:NAMES keeps only these properties of the object at that dotted path, for schemas that embed half of Kubernetes."""

import json
import sys

import yaml


def shorten(schema):
    if isinstance(schema, list):
        return [shorten(each) for each in schema]
    if not isinstance(schema, dict):
        # Go takes a flag in the middle of a pattern, Python only at its start.
        return schema.replace("^(?i)", "(?i)^") if isinstance(schema, str) else schema
    out = {}
    for key, value in schema.items():
        if key in ("description", "x-kubernetes-validations") and not isinstance(value, dict):
            continue
        out[key] = ({name: shorten(each) for name, each in value.items()} if key == "properties" else shorten(value))
    if "properties" in out and not out.get("x-kubernetes-preserve-unknown-fields"):
        out.setdefault("additionalProperties", False)
    return out


def main():
    path, version, out, *kept = sys.argv[1:]
    crd = yaml.safe_load(open(path, encoding="utf-8"))
    found = next(each for each in crd["spec"]["versions"] if each["name"] == version)
    schema = shorten(found["schema"]["openAPIV3Schema"])
    # metadata is ObjectMeta, which kubernetes-validate knows; here it only has to be an object.
    schema["properties"]["metadata"] = {"type": "object"}
    for each in kept:
        where, names = each.split(":")
        node = schema
        for part in where.split("."):
            node = node["properties"][part]
        node["properties"] = {name: node["properties"][name] for name in names.split(",")}
    with open(out, "w", encoding="utf-8") as file:
        json.dump(schema, file, separators=(",", ":"), sort_keys=True)
        file.write("\n")


main()
