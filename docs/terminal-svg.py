#!/usr/bin/env python3
"""Draws what a terminal showed as SVG.

    script -q -c "stty cols 120; target/release/warren lab demo" demo.typescript
    docs/terminal-svg.py demo.typescript > docs/demo.svg

The input is what a command wrote to its terminal, as script(1) records it. The picture has a background of its own, so
that it reads on light and on dark pages. Carriage returns, "erase to the end of the line", bold, faint and the eight
colours are understood; other sequences are left out.
"""

import re
import sys
from html import escape

COLOURS = {31: "#ff7b72", 32: "#56d364", 33: "#e3b341", 34: "#79c0ff", 35: "#d2a8ff", 36: "#76e3ea"}
TEXT, FAINT, BACKGROUND = "#e6edf3", "#9aa4af", "#0d1117"
SIZE, WIDTH, HEIGHT, MARGIN = 13, 7.83, 18, 16
SEQUENCE = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])|\x1b.")


def screen(text):
    """The lines of a terminal, each a list of (character, style)."""
    lines, line, column, style = [], [], 0, ()
    at = 0
    while at < len(text):
        found = SEQUENCE.match(text, at)
        if found:
            at = found.end()
            if found[2] == "K":
                del line[column:]
            elif found[2] == "m":
                for code in (int(part or 0) for part in found[1].split(";")):
                    style = () if code == 0 else style + (code,)
            continue
        character = text[at]
        at += 1
        if character == "\n":
            lines.append(line)
            line, column = [], 0
        elif character == "\r":
            column = 0
        elif character >= " ":
            line += [(" ", ())] * (column - len(line))
            line[column : column + 1] = [(character, style)]
            column += 1
    return lines + [line] if line else lines


def attributes(style):
    """The attributes of a run of one style."""
    colour = next((COLOURS[code] for code in reversed(style) if code in COLOURS), FAINT if 2 in style else TEXT)
    weight = ' font-weight="bold"' if 1 in style else ""
    return f'fill="{colour}"{weight}'


def draw(lines):
    """The picture of some lines."""
    columns = max(map(len, lines))
    width, height = columns * WIDTH + 2 * MARGIN, len(lines) * HEIGHT + 2 * MARGIN
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" font-family="ui-monospace,Menlo,Consolas,\'DejaVu Sans Mono\',monospace" '
        f'font-size="{SIZE}">'
    )
    yield f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>'
    for number, line in enumerate(lines):
        runs, start = [], 0
        while start < len(line):
            end = start
            while end < len(line) and line[end][1] == line[start][1]:
                end += 1
            runs.append((start, line[start][1], "".join(character for character, _ in line[start:end])))
            start = end
        y = MARGIN + number * HEIGHT + SIZE
        for column, style, text in runs:
            # Words that stand apart are drawn apart: columns stay columns whatever font there is.
            for word in re.finditer(r"\S+(?: \S+)*", text):
                x, length = MARGIN + (column + word.start()) * WIDTH, len(word[0]) * WIDTH
                yield (
                    f'<text x="{x:.1f}" y="{y}" textLength="{length:.1f}" {attributes(style)}>{escape(word[0])}</text>'
                )
    yield "</svg>"


def main():
    text = open(sys.argv[1], encoding="utf-8", newline="").read()
    lines = screen("\n".join(line for line in text.split("\n") if not line.startswith(("Script started", "Script done"))))
    while lines and not any(character.strip() for character, _ in lines[-1]):
        lines.pop()
    print("\n".join(draw(lines)))


main()
