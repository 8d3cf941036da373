#!/usr/bin/env python3
"""Prints the bill of materials of the image's binary: CycloneDX 1.5 of the crates that are compiled into it.

usage: sbom.py [TARGET]     (in the repository; TARGET as cargo knows it, x86_64-unknown-linux-gnu if not given)
"""

import json
import pathlib
import subprocess
import sys
import tomllib

root = pathlib.Path(__file__).resolve().parents[1]
target = sys.argv[1] if len(sys.argv) > 1 else "x86_64-unknown-linux-gnu"
command = ["cargo", "metadata", "--locked", "--format-version", "1", "--no-default-features", "--filter-platform", target]
metadata = json.loads(subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout)
lock = tomllib.loads((root / "Cargo.lock").read_text())
sums = {(one["name"], one["version"]): one.get("checksum") for one in lock["package"]}
packages = {one["id"]: one for one in metadata["packages"]}
nodes = {one["id"]: one for one in metadata["resolve"]["nodes"]}


def needed(node):
    """What is linked into the crate: neither tools of the build, nor of tests, nor macros."""
    return [one["pkg"] for one in node["deps"] if any(kind["kind"] is None for kind in one["dep_kinds"])
            and not any("proc-macro" in made["kind"] for made in packages[one["pkg"]]["targets"])]


top = metadata["resolve"]["root"]
seen, waiting = set(), [top]
while waiting:
    identity = waiting.pop()
    if identity not in seen:
        seen.add(identity)
        waiting += needed(nodes[identity])


def reference(identity):
    return f"pkg:cargo/{packages[identity]['name']}@{packages[identity]['version']}"


def component(identity):
    package = packages[identity]
    one = {"type": "library", "bom-ref": reference(identity), "name": package["name"], "version": package["version"],
           "purl": reference(identity)}
    if package.get("license"):
        one["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if digest := sums.get((package["name"], package["version"])):
        one["hashes"] = [{"alg": "SHA-256", "content": digest}]
    return one


subject = component(top) | {"type": "application"}
print(json.dumps({
    "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
    "metadata": {"component": subject, "properties": [{"name": "target", "value": target}]},
    "components": sorted((component(one) for one in seen - {top}), key=lambda one: one["bom-ref"]),
    "dependencies": sorted(
        ({"ref": reference(one), "dependsOn": sorted({reference(other) for other in needed(nodes[one])})} for one in seen),
        key=lambda one: one["ref"]),
}, indent=1))
