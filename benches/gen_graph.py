"""Writes one graph twice: as mosbuild.yaml and as build.ninja. Knows neither program beyond its file.

    gen_graph.py DIR [--targets 10000] [--layers 10] [--executor host|sandbox]

DIR/mosbuild and DIR/ninja get a workspace each, with the same source files. Every target reads one file of its own
and, but for the lowest layer, two outputs of the layer below, and writes its name without starting a program.
"""
import argparse
import os

parser = argparse.ArgumentParser()
parser.add_argument("dir")
parser.add_argument("--targets", type=int, default=10_000)
parser.add_argument("--layers", type=int, default=10)
parser.add_argument("--executor", default="host", choices=["host", "sandbox"])
options = parser.parse_args()
width = options.targets // options.layers

for program in ("mosbuild", "ninja"):
    for layer in range(options.layers):
        folder = f"{options.dir}/{program}/src/{layer}"
        os.makedirs(folder)
        for i in range(width):
            with open(f"{folder}/{i}.txt", "w") as source:
                source.write(f"source {i} of layer {layer}\n")

yaml = ["mosbuild: 1", "project: layers", "default: [all]", "targets:"]
ninja = ["rule write", "  command = echo $name > $out", "  description = $name"]
top = []
for layer in range(options.layers):
    for i in range(width):
        name = f"t{layer}_{i}"
        below = [f"t{layer - 1}_{j % width}" for j in (i, i + 1)] if layer else []
        yaml += [
            f"  {name}:",
            "    rule: command",
            f"    inputs: [src/{layer}/{i}.txt]",
            f"    run: 'echo {name} > \"$OUT/out\"'",
            "    outputs: [out]",
        ]
        if below:
            yaml.append(f"    deps: {{ a: {below[0]}, b: {below[1]} }}")
        if options.executor == "host":
            yaml.append("    executor: host")
        inputs = [f"src/{layer}/{i}.txt"] + [f"out/{other}" for other in below]
        ninja += [f"build out/{name}: write {' '.join(inputs)}", f"  name = {name}"]
        if layer == options.layers - 1:
            top.append(name)
yaml += ["  all:", "    rule: group", f"    deps: [{', '.join(top)}]"]
ninja += [f"build all: phony {' '.join(f'out/{name}' for name in top)}", "default all"]

with open(f"{options.dir}/mosbuild/mosbuild.yaml", "w") as out:
    out.write("\n".join(yaml) + "\n")
with open(f"{options.dir}/ninja/build.ninja", "w") as out:
    out.write("\n".join(ninja) + "\n")
