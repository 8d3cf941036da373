"""Opens the page of a proxy of the lab in a Chromium, and holds it to what it promises; or takes its pictures.

The proxy carries traffic, refuses some, misses a pod and has seen an actor crash. Nothing is waited for longer than LIMIT.
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from browser import Browser, Failed

MESH = pathlib.Path(__file__).with_name("mesh.yaml")
LIMIT = 40
PAGE = "http://localhost:15000/"
# A pod that is added while somebody looks.
POD = "  - {name: new-1, namespace: shop, serviceAccount: new, node: one, ip: 10.77.1.9}\n"

# In a pod: connections to HOST:PORT that stay open, and whatever comes back a while later is asked for again.
CLIENT = """
import socket, sys, time
streams = []
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    streams.append(socket.create_connection((host, int(port)), 10))
number = 0
while True:
    number += 1
    for stream in streams:
        stream.sendall(b"x" * (20000 + 15000 * (number // 8 % 4)))
        stream.recv(65536)
    time.sleep(0.1)
"""
# In a pod: one connection that is refused.
REFUSED = """
import socket
try:
    with socket.create_connection(("10.77.1.1", 8080), 5) as stream:
        stream.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        stream.recv(10)
except OSError:
    pass
"""
# On a node: so many viewers for so many seconds, and what they were sent, in a file.
FOLLOWER = """
import selectors, socket, sys, time
viewers, seconds, into = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
wait, sent, end = selectors.DefaultSelector(), 0, time.monotonic() + seconds
for _ in range(viewers):
    stream = socket.create_connection(("127.0.0.1", 15000), 5)
    stream.sendall(b"GET /page/updates HTTP/1.0\\r\\nhost: localhost\\r\\n\\r\\n")
    wait.register(stream, selectors.EVENT_READ)
while (left := end - time.monotonic()) > 0:
    if not viewers:
        time.sleep(left)
    for key, _ in wait.select(left) if viewers else []:
        sent += len(key.fileobj.recv(1 << 20))
open(into, "w").write(str(sent))
"""
# Rules that need no library. Each gives the elements that break it.
RULES = {
    "controls have names": """[...document.querySelectorAll('input, button, a, summary')].filter(e =>
        !(e.labels && e.labels.length) && !e.textContent.trim() && !e.getAttribute('aria-label'))""",
    "ids are unique": """[...document.querySelectorAll('[id]')].filter(e =>
        document.querySelectorAll('[id="' + e.id + '"]').length > 1)""",
    "tables have captions and headers": """[...document.querySelectorAll('table')].filter(t => !t.caption
        || !t.querySelector('thead th[scope=col]') || t.querySelector('tbody tr:not(:has(th[scope=row]))'))""",
    "labels name something": """[...document.querySelectorAll('[aria-labelledby]')].filter(e =>
        !document.getElementById(e.getAttribute('aria-labelledby')))""",
    "there is one main and one h1": """[...document.querySelectorAll('main, h1')].slice(2)""",
    "nothing is inline": """[...document.querySelectorAll('script:not([src]), style, [style], [onclick], [onload]')]""",
    "nothing is from elsewhere": """[...document.querySelectorAll('[src], link, img')].filter(e =>
        new URL(e.src || e.href, location).origin !== location.origin)""",
    "links lead somewhere": """[...document.querySelectorAll('a[href^="#"]')].filter(e =>
        !document.getElementById(e.hash.slice(1)))""",
}


class Lab:
    """The lab's mesh with its traffic."""

    def __init__(self, binary, folder):
        self.binary, self.folder, self.name, self.running = binary, folder, f"page-{os.getpid()}", []
        self.mesh = folder / "mesh.yaml"
        self.mesh.write_text(MESH.read_text())

    def __enter__(self):
        try:
            self.start("up", [self.binary, "lab", "--name", self.name, "up", str(self.mesh), "--env", "WARREN_CHAOS=true"])
            self.until("the lab", self.is_up)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        # The lab ends last. It takes what runs in it along.
        for process in reversed(self.running):
            process.terminate()
            try:
                process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()

    def start(self, name, command):
        with open(self.folder / f"{name}.log", "wb") as log:
            self.running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def is_up(self):
        said = (self.folder / "up.log").read_text()
        if self.running[0].poll() is not None:
            raise Failed(said)
        return " is up: " in said

    def inside(self, host, *command):
        return [self.binary, "lab", "--name", self.name, "exec", host, "--", *command]

    def run(self, host, *command):
        return subprocess.run(self.inside(host, *command), capture_output=True, text=True, timeout=LIMIT)

    def until(self, what, look):
        deadline = time.monotonic() + LIMIT
        while not (found := look()):
            if time.monotonic() > deadline:
                raise Failed(f"within {LIMIT} s there was no {what}")
            time.sleep(0.1)
        return found

    def play(self):
        """Traffic, a denial, and a crash."""
        self.start("client", self.inside("pod:shop/cart-1", "python3", "-c", CLIENT, "10.77.2.2:9000", "10.77.1.2:9000"))
        self.start("billing", self.inside("pod:billing/billing-1", "python3", "-c", CLIENT, "10.77.2.2:9000"))
        self.run("pod:billing/billing-1", "python3", "-c", REFUSED)
        self.run("node:one", self.binary, "chaos", "kill", "root/telemetry")

    def add_pod(self):
        self.mesh.write_text(self.mesh.read_text().replace("services:\n", POD + "services:\n"))


def expect(holds, what):
    if not holds:
        raise Failed(what)


def broken_rules(page, axe):
    """The rules that the page breaks, by our own list and by axe-core where it is there."""
    broken = []
    for rule, expression in RULES.items():
        found = page.do(f"({expression}).map(e => e.outerHTML.slice(0, 120))")
        broken += [f"{rule}: {element}" for element in found]
    if axe:
        page.do(axe + "; 1")
        found = page.do("axe.run(document, {resultTypes: ['violations']}).then(r => r.violations.flatMap(v =>"
                        " v.nodes.map(n => v.id + ': ' + n.html.slice(0, 160) + ' ' + n.failureSummary)))")
        broken += found
    return broken


def text_of(page, part):
    return page.do(f"document.querySelector('[data-part=\"{part}\"]').innerText")


def shows(browser, lab, axe):
    page = browser.page()
    page.open(PAGE)
    for wanted in ["shop/cart-1", "shop/orders-1", "billing/billing-1"]:
        expect(wanted in text_of(page, "pods"), f"the pods lack {wanted}: {text_of(page, 'pods')}")
    page.wait("word that it is live", "document.getElementById('live').textContent === 'Live.'")
    # The pod that is not handed over is found after some seconds.
    page.wait("verdict about late-1", "document.querySelector('[data-part=verdict]').innerText.includes('shop/late-1')")
    page.wait("title that says so", "/^\\d thing/.test(document.title)")
    page.wait("rates", "/MB\\/s|kB\\/s/.test(document.querySelector('[data-part=pods]').innerText)")
    for part, wanted in [
        ("verdict", r"broken"), ("connections", r"billing/billing-1.*tunnel"), ("connections", r"shop/cart-1.*local"),
        ("tunnels", r"shop/web-2"), ("certificates", r"shop/sa/cart.*valid"), ("discovery", r"connected"),
        ("quarantine", r"Nothing is quarantined"), ("events", r"denial"), ("events", r"pod is served"),
        ("tree", r"telemetry.*restarts: 1"), ("pods", r"15001.*15008.*15053|15001.*15006.*15008"),
    ]:
        said = " ".join(text_of(page, part).split())
        expect(re.search(wanted, said), f"{part} lacks {wanted!r}: {said}")
    # Focus, folding and selection outlive news.
    page.do("document.querySelector('#tree summary').focus(); document.querySelector('#tree details').open = false")
    at = text_of(page, "at")
    expect("shop/new-1" not in text_of(page, "pods"), "the pod is there before it was added")
    lab.add_pod()
    page.wait("pod that was added", "document.querySelector('[data-part=pods]').innerText.includes('shop/new-1')")
    expect(text_of(page, "at") != at, "the time stands still")
    expect(page.do("document.activeElement.tagName") == "SUMMARY", "news take the focus away")
    expect(not page.do("document.querySelector('#tree details').open"), "news unfold what was folded")
    wrong = broken_rules(page, axe)
    expect(not wrong, "rules are broken:\n" + "\n".join(wrong))
    strangers = [url for url in page.asked() if not url.startswith(PAGE)]
    expect(not strangers, f"something is asked for elsewhere: {strangers}")
    expect(not page.complaints(), f"the console complains: {page.complaints()}")
    page.close()


def explains(browser):
    page = browser.page()
    page.open(PAGE)
    page.do("document.getElementById('source').value = 'shop/cart-1';"
            "document.getElementById('destination').value = 'shop/web:80';"
            "document.querySelector('#ask button').click()")
    page.wait("explanation", "/allowed/.test(document.getElementById('answer').innerText)")
    expect(page.do("document.activeElement.id") == "answer", "the answer has no focus")
    expect("shop%2Fcart-1" in page.do("location.href"), "the question is not in the address")
    page.do("document.getElementById('source').value = 'shop/nobody';"
            "document.querySelector('#ask button').click()")
    page.wait("refusal", "/no answer.*nobody/.test(document.getElementById('answer').innerText)")
    expect(not page.complaints(), f"the console complains: {page.complaints()}")
    page.close()


def pauses_and_tells(browser, lab):
    page = browser.page()
    page.open(PAGE)
    page.wait("word that it is live", "document.getElementById('live').textContent === 'Live.'")
    page.key("Tab", 9)
    expect(page.do("document.activeElement.className") == "skip", "the first stop of the keys is no way past the links")
    page.do("document.getElementById('pause').click()")
    expect(page.do("document.getElementById('live').textContent") == "Paused.", "it does not say that it is paused")
    page.do("document.getElementById('pause').click()")
    page.wait("word that it is live again", "document.getElementById('live').textContent === 'Live.'")
    # Without the server there are no news, which the page says.
    lab.run("node:one", lab.binary, "chaos", "hang", "console", "--ms", "100")
    page.do("heard = Date.now() - 60000; stop(); look()")
    page.wait("word that news are missing", "!document.getElementById('stale').hidden")
    page.do("start()")
    page.wait("news again", "document.getElementById('stale').hidden")
    page.close()


def works_without_script(browser):
    page = browser.page(script=False)
    page.open(PAGE + "?source=shop%2Fcart-1&destination=shop%2Fweb%3A80#why")
    said = page.do("document.body.innerText")
    for wanted in ["shop/cart-1", "Reload for news.", "allowed", "Certificates", "Supervision"]:
        expect(wanted in said, f"without a script the page lacks {wanted!r}")
    expect(page.do("document.getElementById('pause').hidden"), "a button is shown that does nothing")
    expect(page.do("document.getElementById('source').value") == "shop/cart-1", "the form has lost what was asked")
    expect(page.do("document.getElementById('ask').method") == "get", "the form does not work without a script")
    page.close()


def fits_a_phone(browser, axe):
    page = browser.page(width=360, height=740, dark=True, phone=True)
    page.open(PAGE)
    page.wait("word that it is live", "document.getElementById('live').textContent === 'Live.'")
    wide = page.do("[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1"
                   " && !e.closest('.unseen, caption, thead, .skip')).map(e => e.outerHTML.slice(0, 120))")
    expect(page.do("document.documentElement.scrollWidth") <= 360, f"the page is wider than a phone: {wide[:5]}")
    expect(not wide, f"wider than a phone: {wide[:5]}")
    back = page.do("getComputedStyle(document.body).backgroundColor")
    expect(max(map(int, re.findall(r"\d+", back)[:3])) < 60, f"the page is not dark: {back}")
    wrong = broken_rules(page, axe)
    expect(not wrong, "rules are broken:\n" + "\n".join(wrong))
    page.close()


def pictures(browser, folder):
    """The three pictures of docs/page.md."""
    for name, setup, height in [
        ("page-light.png", {"width": 1200}, 1400),
        ("page-dark.png", {"width": 1200, "dark": True}, 900),
        ("page-narrow.png", {"width": 390, "phone": True}, 1400),
    ]:
        page = browser.page(**setup)
        page.open(PAGE)
        page.wait("verdict", "document.querySelector('[data-part=verdict]').innerText.includes('shop/late-1')")
        # Until the line of rates has some points.
        page.wait("rates", "document.querySelector('.drawing polyline').points.length >= 12")
        page.picture(folder / name, height)
        page.close()


def cost(lab):
    """The processor's time of the proxy without a viewer, with one and with eight, and what a viewer is sent."""
    pid = re.search(r"proxy-one +process (\d+)", subprocess.run(
        [lab.binary, "lab", "--name", lab.name, "status"], capture_output=True, text=True).stdout)[1]
    ticks = os.sysconf("SC_CLK_TCK")

    def used():
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    seconds, sent = 30, lab.folder / "sent"
    for viewers in [0, 1, 8]:
        command = ["python3", "-c", FOLLOWER, str(viewers), str(seconds + 5), str(sent)]
        follower = subprocess.Popen(lab.inside("node:one", *command))
        time.sleep(3)
        before = used()
        time.sleep(seconds)
        share = 100 * (used() - before) / seconds
        follower.wait(LIMIT)
        each = int(sent.read_text()) // max(viewers, 1) // seconds
        print(f"{viewers} viewers: {share:.2f} % of a core, {each} bytes a second to each")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--axe", type=pathlib.Path)
    parser.add_argument("--pictures", type=pathlib.Path)
    parser.add_argument("--cost", action="store_true")
    args = parser.parse_args()
    binary = str(pathlib.Path(args.binary).resolve())
    axe = args.axe.read_text() if args.axe else None
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Lab(binary, pathlib.Path(folder)) as lab:
        if args.cost:
            cost(lab)
            return 0
        lab.play()
        browser = Browser(lab.inside("node:one"), pathlib.Path(folder), LIMIT)
        try:
            if args.pictures:
                pictures(browser, args.pictures)
                return 0
            for name, test in [
                ("the page shows what is there, and what comes", lambda: shows(browser, lab, axe)),
                ("the form explains", lambda: explains(browser)),
                ("it can be paused, and says when news are missing", lambda: pauses_and_tells(browser, lab)),
                ("it works without a script", lambda: works_without_script(browser)),
                ("it fits a phone, and is dark where that is wished", lambda: fits_a_phone(browser, axe)),
            ]:
                test()
                print(f"ok: {name}")
        finally:
            browser.close()
    print(f"{time.monotonic() - begun:.1f} s, {'with' if axe else 'without'} axe-core")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failed:
        print(f"FAILED: {failed}", file=sys.stderr)
        sys.exit(1)
