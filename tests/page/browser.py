"""Drives a headless Chromium by the DevTools protocol, over two pipes."""
import base64
import json
import os
import pathlib
import select
import subprocess
import time


class Failed(Exception):
    """Something is not as it should be."""


class Browser:
    """A Chromium that runs as `command` says, with its files in `folder`. Nothing is waited for longer than `limit`."""

    def __init__(self, command, folder, limit):
        self.limit, self.number, self.events, self.rest = limit, 0, [], b""
        asks, answers = folder / "asks", folder / "answers"
        os.mkfifo(asks)
        os.mkfifo(answers)
        flags = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--mute-audio",
            f"--user-data-dir={folder}/profile", "--remote-debugging-pipe", "about:blank",
        ]
        # A browser that is started by a name finds its pipes as descriptors 3 and 4.
        script = 'asks=$1 answers=$2; shift 2; exec "$@" 3<"$asks" 4>"$answers"'
        self.log = open(folder / "chromium.log", "wb")
        self.process = subprocess.Popen(
            [*command, "sh", "-c", script, "sh", str(asks), str(answers), "chromium", *flags],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        # Neither end opens before the other one does, and a browser that does not start must not hold us.
        self.answers = os.open(answers, os.O_RDONLY | os.O_NONBLOCK)
        self.asks = self.until("the browser's start", lambda: self.open_asks(asks))

    def open_asks(self, path):
        if self.process.poll() is not None:
            raise Failed(f"chromium has ended: {pathlib.Path(self.log.name).read_text(errors='replace')[-2000:]}")
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return None

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        os.close(self.answers)
        os.close(self.asks)
        self.log.close()

    def until(self, what, look):
        deadline = time.monotonic() + self.limit
        while not (found := look()):
            if time.monotonic() > deadline:
                raise Failed(f"within {self.limit} s there was no {what}")
            time.sleep(0.05)
        return found

    def send(self, method, session=None, **params):
        """Asks the browser, and returns the result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        left = json.dumps(message).encode() + b"\0"
        while left:
            select.select([], [self.asks], [], self.limit)
            try:
                left = left[os.write(self.asks, left):]
            except BlockingIOError:
                pass
        deadline = time.monotonic() + self.limit
        while time.monotonic() < deadline:
            for answer in self.read(deadline):
                if answer.get("id") == self.number:
                    if "error" in answer:
                        raise Failed(f"{method}: {answer['error']}")
                    return answer["result"]
                self.events.append(answer)
        raise Failed(f"the browser has not answered {method}")

    def read(self, deadline):
        ready, _, _ = select.select([self.answers], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            return []
        got = os.read(self.answers, 1 << 20)
        if not got:
            raise Failed("the browser has gone")
        *whole, self.rest = (self.rest + got).split(b"\0")
        return [json.loads(message) for message in whole]

    def page(self, **setup):
        return Page(self, **setup)


class Page:
    """A page of the browser, of its own size and taste."""

    def __init__(self, browser, width=1280, height=900, dark=False, script=True, phone=False):
        self.browser = browser
        self.target = browser.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.send("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network"]:
            self.send(f"{domain}.enable")
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.send("Emulation.setScrollbarsHidden", hidden=True)
        self.send("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"}])
        if not script:
            self.send("Emulation.setScriptExecutionDisabled", value=True)

    def send(self, method, **params):
        return self.browser.send(method, session=self.session, **params)

    def open(self, url):
        result = self.send("Page.navigate", url=url)
        if "errorText" in result:
            raise Failed(f"{url}: {result['errorText']}")
        self.wait("document", "document.readyState === 'complete' && location.href !== 'about:blank'")

    def do(self, expression):
        """The value of an expression, whose promise is waited for."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise Failed(f"{expression}: {json.dumps(result['exceptionDetails'])[:500]}")
        return result["result"].get("value")

    def wait(self, what, expression):
        return self.browser.until(what, lambda: self.do(expression))

    def complaints(self):
        """What the console and the log of this page have said of errors."""
        self.do("1")
        said = []
        for event in self.browser.events:
            if event.get("sessionId") != self.session:
                continue
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                said.append(params["exceptionDetails"].get("text", "") + json.dumps(params["exceptionDetails"])[:300])
            elif event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                said.append(json.dumps(params["args"])[:300])
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                said.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        return said

    def asked(self):
        """The URLs that this page has asked for."""
        return [event["params"]["request"]["url"] for event in self.browser.events
                if event.get("sessionId") == self.session and event["method"] == "Network.requestWillBeSent"]

    def key(self, name, code):
        for kind in ["keyDown", "keyUp"]:
            self.send("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)

    def picture(self, path, height=None):
        clip = {}
        if height:
            width = self.do("document.documentElement.clientWidth")
            clip = {"clip": {"x": 0, "y": 0, "width": width, "height": height, "scale": 1},
                    "captureBeyondViewport": True}
        shot = self.send("Page.captureScreenshot", format="png", **clip)
        pathlib.Path(path).write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        self.browser.send("Target.closeTarget", targetId=self.target)
