"""Puts every query of deploy/observability to a real Prometheus that scrapes two proxies of the lab under traffic.

It holds the families, labels and values to docs/metrics.md and to what clients sent, the alerts to docs/runbooks.md, and
the patterns for the log to the proxies' own lines. Nothing is waited for longer than LIMIT.
"""
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "deploy/observability"
MESH = pathlib.Path(__file__).with_name("mesh.yaml")
LIMIT = 60
ROUNDS = 3
# Alerts whose families have no sample until something happens that this mesh does not do.
QUIET_ALERTS = {"WarrenDiscoveryBreaks", "WarrenResourcesRefused"}
# What a scrape adds.
SCRAPED = {"__name__", "instance", "job", "namespace", "node", "pod", "le"}

# In a pod: connections to HOST:PORT, each with one request. Prints how many were answered, and the bytes of both ways.
CLIENT = """
import json, socket, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
request = b"GET / HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n"
answered = sent = received = 0
for _ in range(count):
    try:
        with socket.create_connection((host, port), 10) as stream:
            stream.sendall(request)
            got = 0
            while data := stream.recv(65536):
                got += len(data)
            answered, sent, received = answered + (got > 0), sent + len(request), received + got
    except OSError:
        pass
print(json.dumps([answered, sent, received]))
"""
# In a pod: one question for the addresses of NAME, to a name server that the pod's rules replace by the proxy.
QUESTION = """
import socket, struct, sys
labels = b"".join(bytes([len(part)]) + part.encode() for part in sys.argv[1].split("."))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
    asking.settimeout(10)
    asking.sendto(struct.pack(">6H", 7, 256, 1, 0, 0, 0) + labels + b"\\0" + struct.pack(">2H", 1, 1), ("10.77.0.254", 53))
    asking.recv(512)
"""
# On a node: the answers of Prometheus to the paths on standard input.
ASK = """
import json, sys, urllib.request, urllib.error
def ask(path):
    try:
        with urllib.request.urlopen("http://127.0.0.1:9090" + path, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return {"status": "error", "error": error.read().decode()}
    except (OSError, ValueError) as error:
        return {"status": "error", "error": str(error)}
print(json.dumps([ask(path) for path in json.load(sys.stdin)]))
"""
# On a node: the two families of cAdvisor that the dashboards show, on port 9100.
CADVISOR = """
import http.server
class Answer(http.server.BaseHTTPRequestHandler):
    seconds = 0
    def do_GET(self):
        Answer.seconds += 1
        labels = '{container="istio-proxy",pod="ztunnel-one"}'
        body = f"container_memory_working_set_bytes{labels} 1e7\\ncontainer_cpu_usage_seconds_total{labels} {Answer.seconds}\\n"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", 9100), Answer).serve_forever()
"""


class Failed(Exception):
    """Something is not as it should be."""


class Lab:
    """The lab's mesh, with Prometheus on node one."""

    def __init__(self, binary, folder):
        self.binary, self.folder, self.name, self.running = binary, folder, f"obs-{os.getpid()}", []
        (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s", "scrape_timeout": "1s"},
            "rule_files": [str(SHIPPED / "prometheus/rules.yaml")],
            "scrape_configs": [
                {"job_name": "ztunnel", "metrics_path": "/stats/prometheus", "static_configs": [
                    {"targets": [f"10.77.0.{number}:15020"],
                     "labels": {"pod": f"ztunnel-{node}", "namespace": "istio-system", "node": node}}
                    for number, node in [(1, "one"), (2, "two")]]},
                {"job_name": "cadvisor", "static_configs": [{"targets": ["127.0.0.1:9100"]}], "honor_labels": True},
            ],
        }
        (folder / "prometheus.yaml").write_text(json.dumps(config))

    def __enter__(self):
        try:
            self.raise_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def raise_all(self):
        settings = ["WARREN_CHAOS=true", f"WARREN_RESOLV_CONF={self.folder}/resolv.conf"]
        up = ["lab", "--name", self.name, "up", str(MESH), "--dns"]
        self.start("up", [self.binary, *up, *(part for setting in settings for part in ("--env", setting))])
        self.logs = pathlib.Path(self.until("the lab", self.greeting))
        self.start("cadvisor", self.inside("node:one", "python3", "-c", CADVISOR))
        self.start("prometheus", self.inside(
            "node:one", "prometheus", f"--config.file={self.folder}/prometheus.yaml",
            f"--storage.tsdb.path={self.folder}/data", "--web.listen-address=127.0.0.1:9090", "--log.level=warn"))

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

    def greeting(self):
        if self.running[0].poll() is not None:
            raise Failed((self.folder / "up.log").read_text())
        found = re.search(r" is up: .* logs in (\S+)", (self.folder / "up.log").read_text())
        return found and found[1]

    def inside(self, host, *command):
        return [self.binary, "lab", "--name", self.name, "exec", host, "--", *command]

    def run(self, host, *command, said=""):
        done = subprocess.run(self.inside(host, *command), input=said, capture_output=True, text=True, timeout=LIMIT)
        if done.returncode != 0:
            raise Failed(f"{host}: {command[:2]} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def until(self, what, look):
        deadline = time.monotonic() + LIMIT
        while True:
            if found := look():
                return found
            if time.monotonic() > deadline:
                raise Failed(f"within {LIMIT} s there was no {what}")
            time.sleep(0.2)

    def ask(self, *paths):
        return json.loads(self.run("node:one", "python3", "-c", ASK, said=json.dumps(paths)))

    def query(self, *expressions):
        """The samples of each expression: labels and value."""
        from urllib.parse import quote
        answers = self.ask(*(f"/api/v1/query?query={quote(expression)}" for expression in expressions))
        samples = []
        for expression, answer in zip(expressions, answers):
            if answer["status"] != "success":
                raise Failed(f"{expression}: {answer['error']}")
            samples.append([(sample["metric"], float(sample["value"][1])) for sample in answer["data"]["result"]])
        return samples

    def scraped(self, times):
        """Waits until both proxies have been scraped as often again."""
        def count():
            answer, = self.ask("/api/v1/query?query=sum%20by%20(pod)%20(count_over_time(up%7Bpod!%3D%22%22%7D%5B1h%5D))")
            found = answer["data"]["result"] if answer["status"] == "success" else []
            return min((float(sample["value"][1]) for sample in found), default=0) if len(found) == 2 else 0
        before = count()
        self.until("scrapes", lambda: count() >= before + times)


def documented():
    """The families of docs/metrics.md with their labels."""
    text = (ROOT / "docs/metrics.md").read_text()
    lists = {f"list {number}": set(re.findall(r"`(\w+)`", names))
             for number, names in re.findall(r"^List (\d) of labels: (.*)$", text, re.M)}
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", text, re.M)
    return {family: (kind, lists.get(labels) or set(re.findall(r"`(\w+)`", labels))) for family, kind, labels in rows}


def traffic(lab, sent):
    """One round of every kind of connection. Adds what clients saw to `sent`."""
    for host, to, port, count in [
        ("pod:client", "10.77.2.1", 8080, 6), ("pod:client", "10.96.0.80", 80, 4), ("pod:client", "10.77.1.2", 8080, 3),
        ("outside:outsider", "10.77.2.1", 8080, 2), ("pod:client", "10.77.2.2", 8080, 2), ("pod:client", "10.96.0.81", 80, 2),
    ]:
        saw = json.loads(lab.run(host, "python3", "-c", CLIENT, to, str(port), str(count)))
        sent[host, to] = [a + b for a, b in zip(sent.get((host, to), [0, 0, 0]), saw)]
    for name in ["web.default.svc.cluster.local", "nowhere.example"]:
        lab.run("pod:client", "python3", "-c", QUESTION, name)


def values(lab, sent):
    """Compares the counters with what clients sent."""
    by_ip, by_service = sent["pod:client", "10.77.2.1"], sent["pod:client", "10.96.0.80"]
    far = [a + b for a, b in zip(by_ip, by_service)]
    near, outside = sent["pod:client", "10.77.1.2"], sent["outside:outsider", "10.77.2.1"]
    expected = [
        ("one", 'reporter="source", source_workload="client", destination_workload="web"', "mutual_tls", far),
        ("two", 'reporter="destination", source_workload="client", destination_workload="web"', "mutual_tls", far),
        ("one", 'reporter="source", source_workload="client", destination_workload="near"', "mutual_tls", near),
        ("one", 'reporter="destination", source_workload="client", destination_workload="near"', "mutual_tls", near),
        ("two", 'reporter="destination", source_workload="unknown", destination_workload="web"', "unknown", outside),
    ]
    families = ["istio_tcp_connections_opened_total", "istio_tcp_received_bytes_total", "istio_tcp_sent_bytes_total"]
    wrong = []
    for node, labels, security, saw in expected:
        select = f'{{pod="ztunnel-{node}", {labels}, connection_security_policy="{security}"}}'
        found = [sum(value for _, value in samples)
                 for samples in lab.query(*(f"{family}{select}" for family in families))]
        if found != saw or not all(saw):
            wrong.append(f"{select}: clients saw {saw}, Prometheus has {found}")
    service = 'istio_tcp_connections_opened_total{reporter="source", destination_service="web.default.svc.cluster.local"}'
    denied = 'istio_tcp_connections_failed_total{reporter="destination", response_flags="DENY", destination_workload="shut"}'
    pods = 'workload_manager_active_proxy_count{pod="ztunnel-one"}'
    late = 'warren_pods_unhealthy{reason="not handed over", pod="ztunnel-one"}'
    for select, want in [(service, by_service[0]), (denied, 2 * ROUNDS), (pods, 2), (late, 1)]:
        samples, = lab.query(select)
        if sum(value for _, value in samples) < want:
            wrong.append(f"{select}: {samples}, not {want}")
    return wrong


def families(lab):
    """Compares names and labels of what was scraped with docs/metrics.md."""
    known, wrong = documented(), []
    series, = lab.ask("/api/v1/series?match[]=%7Bjob%3D%22ztunnel%22%7D")
    for labels in series["data"]:
        name = labels["__name__"]
        if name == "up" or name.startswith("scrape_"):
            continue
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        family = family if known.get(family, ("",))[0] == "histogram" else name
        if family not in known:
            wrong.append(f"{name} is not in docs/metrics.md")
        elif strange := set(labels) - SCRAPED - known[family][1]:
            wrong.append(f"{name}: labels {sorted(strange)} are not in docs/metrics.md")
    return sorted(set(wrong))


def has_result(samples):
    return any(not math.isnan(value) for _, value in samples)


def panels(lab):
    """Puts the queries of all panels."""
    asked = []
    for path in sorted((SHIPPED / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                query = target["expr"].replace("$__rate_interval", "2m").replace("$pod", "ztunnel-.*")
                asked.append((f"{path.stem}, {panel['title']}", query))
    answers = lab.query(*(query for _, query in asked))
    return len(asked), [f"{where}: no result for {query}" for (where, query), samples in zip(asked, answers)
                        if not has_result(samples)]


def rules(lab):
    """Puts the queries of all rules: what an alert compares, whatever it is compared with."""
    answer, = lab.ask("/api/v1/rules")
    found = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
    wrong = [f"{rule['name']}: {rule.get('lastError')}" for rule in found if rule["health"] != "ok"]
    compared = re.compile(r"\s[<>]\s*[0-9.]+(?=\s|$)")
    asked = [(rule["name"], compared.sub("", rule["query"]) if rule["type"] == "alerting" else rule["query"])
             for rule in found]
    without = {name for (name, _), samples in zip(asked, lab.query(*(query for _, query in asked)))
               if not has_result(samples)}
    wrong += [f"{name}: no result" for name in without - QUIET_ALERTS]
    wrong += [f"{name}: has a result" for name in QUIET_ALERTS - without]
    alerts = {rule["name"]: rule for rule in found if rule["type"] == "alerting"}
    pending = [alert["labels"].get("reason") for alert in alerts["WarrenPodOutOfTheMesh"]["alerts"]]
    if "not handed over" not in pending:
        wrong.append(f"WarrenPodOutOfTheMesh is not pending for the pod that is not handed over: {pending}")
    headings = set(re.findall(r"^## (Warren\w+)$", (ROOT / "docs/runbooks.md").read_text(), re.M))
    wrong += [f"{name}: is not in both the rules and docs/runbooks.md" for name in headings ^ set(alerts)]
    wrong += [f"{name}: {rule['annotations'].get('runbook')}" for name, rule in alerts.items()
              if rule["annotations"].get("runbook") != f"docs/runbooks.md#{name.lower()}"]
    return len(found), wrong


def logs(lab):
    """Holds the patterns for log lines to the lines that the proxies wrote."""
    alloy = (SHIPPED / "logs/warren.alloy").read_text()
    fluent = (SHIPPED / "logs/fluent-bit.yaml").read_text()
    expression = re.search(r'expression = "(.*)"', alloy)[1].replace("\\\\", "\\")
    patterns = [re.compile(expression), re.compile(re.search(r"regex: '(\^\(.*)'", fluent)[1].replace("(?<", "(?P<"))]
    mapped = set(re.findall(r'= "((?:src|dst)\.\w+)"', alloy)) | {"direction", "bytes_sent", "bytes_recv", "duration", "error"}
    field = re.compile(r'([\w.]+)=("(?:[^"\\]|\\.)*"|[^\s"]*)(?:\s|$)')
    seen, wrong, count = set(), [], 0
    for path in sorted(lab.logs.glob("proxy-*.log")):
        for line in path.read_text().splitlines():
            if not re.match(r"\d{4}-\d{2}-\d{2}T", line):
                continue
            count += 1
            for pattern in patterns:
                found = pattern.match(line)
                if not found:
                    wrong.append(f"{pattern.pattern}: does not match {line!r}")
                elif found["scope"] == "access":
                    seen |= {name for name, _ in field.findall(found["fields"])}
                    if rest := field.sub("", found["fields"]).strip():
                        wrong.append(f"not in logfmt: {rest!r} of {line!r}")
    wrong += [f"no access line has {name}" for name in sorted(mapped - seen)]
    return count, wrong


def main():
    binary = str(pathlib.Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory(prefix="warren-obs") as folder, Lab(binary, pathlib.Path(folder)) as lab:
        lab.until("Prometheus", lambda: lab.ask("/api/v1/query?query=1")[0]["status"] == "success")
        sent = {}
        lab.scraped(2)
        for _ in range(ROUNDS):
            traffic(lab, sent)
            lab.scraped(2)
        for fault in [("kill", "meshsup/xds"), ("panic-task", "xds/stream")]:
            lab.run("node:one", binary, "chaos", *fault)
            lab.scraped(3)
        named = 'sum(warren_pods_unhealthy{reason="not handed over"}) > 0'
        lab.until("word of the pod that is not handed over", lambda: lab.query(named)[0])
        lab.scraped(3)
        (queries, wrong), (count, wrong_rules), (lines, wrong_lines) = panels(lab), rules(lab), logs(lab)
        wrong += wrong_rules + families(lab) + values(lab, sent) + wrong_lines
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        sys.exit(1)
    print(f"observability: {queries} queries of panels, {count} rules and {lines} lines of log are as they should be")


try:
    main()
except Failed as failure:
    sys.exit(f"observability: {failure}")
