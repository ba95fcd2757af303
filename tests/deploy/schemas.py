"""Validates objects: OBJECTS CUSTOM VERSION…

OBJECTS is a list of pairs, what was rendered and an object of it. CUSTOM holds schemas of kinds that operators add and no package
describes. Prints how many were checked; faults go to standard error, one a line."""

import functools
import importlib
import json
import sys

import jsonschema
import kubernetes_validate.utils as kubernetes

MODELS = {
    "keda.sh/v1alpha1": "cloudcoil.models.keda.v1alpha1",
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
}

# Megabytes, read for every object otherwise.
kubernetes.schema_contents = functools.lru_cache(None)(kubernetes.schema_contents)


def check(thing, version, custom):
    group, kind = thing["apiVersion"], thing["kind"]
    if group in MODELS:
        model = getattr(importlib.import_module(MODELS[group]), kind)
        read = model.model_validate(thing).model_dump(mode="json", by_alias=True, exclude_unset=True)
        # Models leave out what they do not know.
        if read != thing:
            raise ValueError(f"read as {read}")
    elif f"{group}/{kind}" in custom:
        jsonschema.validate(thing, custom[f"{group}/{kind}"])
    else:
        kubernetes.validate(thing, version, strict=True)


objects_file, custom_file, *versions = sys.argv[1:]
with open(objects_file) as file:
    objects = json.load(file)
with open(custom_file) as file:
    custom = json.load(file)

faults = 0
for version in versions:
    for where, thing in objects:
        try:
            check(thing, version, custom)
        except Exception as fault:
            faults += 1
            name = f"{thing['kind']} {thing['metadata']['name']}"
            text = getattr(fault, "message", str(fault)).replace("\n", " ")[:300]
            print(f"{version}: {where}: {name}: {text}", file=sys.stderr)
print(len(objects) * len(versions))
sys.exit(faults > 0)
