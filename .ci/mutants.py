#!/usr/bin/env python3
"""Compiles all mutants of a crate into one test program, and sees which of them the tests notice.

mutants.py CRATE LIST REPORT GROUP... with CARGO_TARGET_DIR set. CRATE is a folder that this program changes, LIST what
`cargo mutants --list --json` says of it, and a GROUP is NAME=FILE,FILE:TEST,TEST. Each function that has mutants gets a
copy of its body for each of them; the variable MUTANT chooses a copy. A copy that does not compile is taken out. A
mutant of a function whose type depends on its body, or of a constant function, is compiled by itself.
"""
import collections, json, os, pathlib, re, shutil, subprocess, sys, time

CHOOSE = "(crate::mutant_chosen())"
LIB = """
/// The mutant that runs: 0 is none.
pub fn mutant_chosen() -> u32 {
    static CHOSEN: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *CHOSEN.get_or_init(|| std::env::var("MUTANT").ok().and_then(|n| n.parse().ok()).unwrap_or_default())
}
"""


class Source:
    """A file, its mutants, and the lines at which their copies are once it is written."""

    def __init__(self, path):
        self.path, self.text, self.mutants, self.copies = path, path.read_text(), [], []
        self.lines = [0]
        for line in self.text.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))

    def at(self, place):
        return self.lines[place["line"] - 1] + place["column"] - 1

    def span(self, span):
        return self.at(span["start"]), self.at(span["end"])

    def body(self, begin):
        """Where the body begins of a function that begins, with its comments and attributes, at `begin`."""
        while re.match(r"\s*(//|#\[)", self.text[begin:]):
            begin = self.text.index("\n", begin) + 1
        return begin, self.text.index("{", begin)

    def mutated(self, mutant, begin, end):
        """The text from `begin` to `end` with the mutant in it."""
        first, last = self.span(mutant["span"])
        return self.text[begin:first] + mutant["replacement"] + self.text[last:end]

    def write(self, left_out):
        """Writes the file with copies of all mutants but those of the numbers `left_out`."""
        functions = collections.defaultdict(list)
        for mutant in self.mutants:
            if mutant["number"] not in left_out:
                functions[self.span(mutant["function"]["span"])].append(mutant)
        out, done, line, self.copies = [], 0, 1, []

        def put(text):
            nonlocal line
            out.append(text)
            line += text.count("\n")

        for (begin, end), mutants in sorted(functions.items()):
            _, body = self.body(begin)
            put(self.text[done:body] + "{ match " + CHOOSE + " {\n")
            for mutant in mutants:
                first = line
                put(f"{mutant['number']} => {self.mutated(mutant, body, end)}\n")
                self.copies.append((first, line, mutant["number"]))
            put("_ => " + self.text[body:end] + "\n} }")
            done = end
        put(self.text[done:])
        self.path.write_text("".join(out))


def build(crate):
    """The test program, or the places of the errors."""
    command = ["cargo", "test", "--offline", "--lib", "--no-run", "--message-format=json"]
    command.append(f"--manifest-path={crate}/Cargo.toml")
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    program, errors = None, []
    for line in ran.stdout.splitlines():
        told = json.loads(line)
        if told.get("executable"):
            program = told["executable"]
        if told["reason"] == "compiler-message" and told["message"]["level"] == "error":
            spans = told["message"]["spans"]
            places = [(s["file_name"], s["line_start"]) for s in spans if s["is_primary"]] or None
            errors.append((places, told["message"]["rendered"]))
    return (program if ran.returncode == 0 else None), errors, ran.stderr


def run(program, number, tests, within):
    """`missed`, `caught` or `timeout`, and the name of a test that has noticed."""
    env = dict(os.environ, MUTANT=str(number), RUST_BACKTRACE="0", PROPTEST_MAX_SHRINK_ITERS="0")
    ran = subprocess.Popen([program, *tests], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    os.set_blocking(ran.stdout.fileno(), False)
    begun, text = time.monotonic(), b""
    while True:
        text += ran.stdout.read() or b""
        failed = re.search(rb"^test (\S+) .*\.\.\. FAILED$", text, re.M)
        ended = ran.poll()
        if failed or ended is not None or time.monotonic() - begun > within:
            ran.kill()
            ran.wait()
            break
        time.sleep(0.02)
    took = time.monotonic() - begun
    if failed:
        return "caught", failed[1].decode(), took
    if ended is None:
        return "timeout", "", took
    return ("missed" if ended == 0 else "caught"), f"exit {ended}", took


def main():
    crate, listed, report, *groups = sys.argv[1:]
    crate, report = pathlib.Path(crate).resolve(), pathlib.Path(report)
    report.mkdir(parents=True, exist_ok=True)
    lib = crate / "src/lib.rs"
    lib.write_text(lib.read_text() + LIB)
    mutants = json.loads(pathlib.Path(listed).read_text())
    sources, left_out, alone = {}, set(), []
    for number, mutant in enumerate(mutants, 1):
        mutant["number"] = number
        source = sources.setdefault(mutant["file"], Source(crate / mutant["file"]))
        source.mutants.append(mutant)
        begin, body = source.body(source.span(mutant["function"]["span"])[0])
        head = source.text[begin:body]
        if "-> impl " in head or re.search(r"\bconst\b.*\bfn\b", head):
            alone.append(mutant)
            left_out.add(number)
    unviable = set()
    while True:
        for source in sources.values():
            source.write(left_out | unviable)
        program, errors, told = build(crate)
        if program:
            break
        before = len(unviable)
        for places, text in errors:
            for name, line in places or []:
                copies = sources[name].copies if name in sources else []
                unviable |= {number for first, last, number in copies if first <= line < last}
        print(f"{len(unviable)} do not compile", flush=True)
        if len(unviable) == before:
            sys.exit("".join(text for _, text in errors) + told)
    # A mutant that is compiled by itself replaces the program.
    program = shutil.copy(program, report / "program")
    results, known = {}, []
    for group in groups:
        name, files, tests = re.fullmatch(r"(\w+)=(.*?):(.*)", group).groups()
        files, tests = {f"src/protocols/{file}" for file in files.split(",")}, tests.split(",")
        plain = run(program, 0, tests, 600)
        if plain[0] != "missed":
            sys.exit(f"the tests of {name} fail without a mutant: {plain}")
        within = 10 + 5 * plain[2]
        known.append((name, files, tests, within))
        print(f"{name}: {plain[2]:.1f} s without a mutant", flush=True)
        for mutant in mutants:
            if mutant["file"] in files and mutant["number"] not in left_out:
                of = ("unviable", "", 0.0) if mutant["number"] in unviable else run(program, mutant["number"], tests, within)
                results[mutant["number"]] = (name, *of)
                print(f"{name} {of[0]} {of[2]:.1f} s {mutant['name']} {of[1]}", flush=True)
    for source in sources.values() if alone else []:
        source.path.write_text(source.text)
    for name, files, tests, within in known:
        for mutant in alone:
            if mutant["file"] in files:
                source = sources[mutant["file"]]
                source.path.write_text(source.mutated(mutant, 0, len(source.text)))
                by_itself, _, _ = build(crate)
                of = run(by_itself, 0, tests, within) if by_itself else ("unviable", "", 0.0)
                source.path.write_text(source.text)
                results[mutant["number"]] = (name, *of)
                print(f"{name} {of[0]} {of[2]:.1f} s {mutant['name']} {of[1]} (alone)", flush=True)
    for group in groups:
        name = group.split("=")[0]
        of = collections.Counter(result[1] for result in results.values() if result[0] == name)
        tried = sum(of.values()) - of["unviable"]
        print(f"{name}: {tried} tried, {of['caught']} caught, {of['missed']} missed, {of['timeout']} timed out, "
              f"{of['unviable']} unviable")
        for kind in ("caught", "missed", "timeout", "unviable"):
            lines = [m["name"] for m in mutants if results.get(m["number"], ("", ""))[:2] == (name, kind)]
            (report / f"{name}.{kind}").write_text("".join(line + "\n" for line in lines))


main()
