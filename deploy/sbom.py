#!/usr/bin/env python3
"""Prints the bill of materials of the image's binary: CycloneDX 1.5 of the crates that are compiled into it.

usage: sbom.py [TARGET]     (in the repository; TARGET as cargo knows it, x86_64-unknown-linux-gnu if not given)
"""

import json
import pathlib
import re
import subprocess
import sys
import tomllib

root = pathlib.Path(__file__).resolve().parents[1]
target = sys.argv[1] if len(sys.argv) > 1 else "x86_64-unknown-linux-gnu"
# What is linked: neither macros, nor what the build and the tests need. A line is the depth, the crate, its licence.
command = ["cargo", "tree", "--locked", "--no-default-features", "--target", target, "--edges", "normal,no-proc-macro",
           "--prefix", "depth", "--format", "|{p}|{l}"]
lines = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.splitlines()
lock = tomllib.loads((root / "Cargo.lock").read_text())
sums = {(one["name"], one["version"]): one.get("checksum") for one in lock["package"]}

licences, needs, above = {}, {}, []
for line in lines:
    depth, package, licence = line.split("|")
    name, version = re.match(r"(\S+) v(\S+)", package).groups()
    # A crate that has been listed with its own before is marked with (*).
    licences[name, version] = licence.removesuffix(" (*)")
    needs.setdefault((name, version), set())
    del above[int(depth):]
    if above:
        needs[above[-1]].add((name, version))
    above.append((name, version))
subject = above[0]


def reference(crate):
    return f"pkg:cargo/{crate[0]}@{crate[1]}"


def component(crate):
    one = {"type": "library", "bom-ref": reference(crate), "name": crate[0], "version": crate[1], "purl": reference(crate),
           "licenses": [{"expression": licences[crate].replace("/", " OR ")}]}
    if digest := sums.get(crate):
        one["hashes"] = [{"alg": "SHA-256", "content": digest}]
    return one


print(json.dumps({
    "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
    "metadata": {"component": component(subject) | {"type": "application"},
                 "properties": [{"name": "target", "value": target}]},
    "components": [component(crate) for crate in sorted(needs) if crate != subject],
    "dependencies": [{"ref": reference(crate), "dependsOn": [reference(other) for other in sorted(needs[crate])]}
                     for crate in sorted(needs)],
}, indent=1))
