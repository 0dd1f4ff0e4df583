"""Metrics in Prometheus text format: right numbers, right escapes, nobody speaks for another."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery import unitstates
from recovery.packages.model import Check, Service
from recovery.process import Completed
from recovery.value import replace
from tests.updater.packages.fakehost import Bench, package
from updater.packages import metrics
from updater.packages.exposition import Family, Sample, merge, parse, render
from updater.packages.metrics import ServiceRef, own_families, service_families
from updater.packages.scrape import answer

SHOWN = """\
Id=orbital.hello.main.service
ActiveState=active
Result=success
NRestarts=2
CPUUsageNSec=1500000000
MemoryCurrent=4096000
TasksCurrent=3
IOReadBytes=18446744073709551615
IOWriteBytes=[not set]
ExecMainStartTimestamp=@1800000000

Id=orbital.hello.other.service
ActiveState=failed
Result=exit-code
NRestarts=3
CPUUsageNSec=[not set]
MemoryCurrent=[not set]
TasksCurrent=[not set]
ExecMainStartTimestamp=
"""
MAIN = ServiceRef("hello", "1.0", "main")
OTHER = ServiceRef("hello", "1.0", "other")


def test_systemds_values_become_samples_and_unknown_ones_none() -> None:
    text = render(service_families((MAIN, OTHER), unitstates.parse(SHOWN)))
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    main, other = '{package="hello",service="main"}', '{package="hello",service="other"}'
    assert lines == [
        f"orbital_service_cpu_seconds_total{main} 1.5",
        f"orbital_service_memory_bytes{main} 4096000",
        f"orbital_service_tasks{main} 3",
        f"orbital_service_restarts_total{main} 2",
        f"orbital_service_restarts_total{other} 3",
        f"orbital_service_start_timestamp_seconds{main} 1800000000",
        f"orbital_service_healthy{main} 1",
        f"orbital_service_healthy{other} 0",
    ]
    assert "# TYPE orbital_service_cpu_seconds_total counter\n" in text


LABELS = st.dictionaries(
    st.from_regex(r"[a-z_][a-z0-9_]*", fullmatch=True),
    st.text(st.characters(codec="utf-8"), max_size=20),
    max_size=3,
)


@given(LABELS, st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=30))
def test_every_text_in_labels_and_help_comes_back_as_it_was(
    labels: dict[str, str], help_text: str
) -> None:
    family = Family("a_total", "counter", help_text, (Sample("a_total", (*labels.items(),), "1"),))
    (found,) = parse(render([family]))
    assert found.samples == family.samples
    assert found.help.strip() == help_text.strip()


def test_a_value_with_quotes_backslashes_and_lines_is_escaped() -> None:
    sample = Sample("a", (("path", 'C:\\"x"\n'),), "1")
    assert render([Family("a", "gauge", "", (sample,))]) == (
        '# TYPE a gauge\na{path="C:\\\\\\"x\\"\\n"} 1\n'
    )


HISTOGRAM = """\
# HELP t_seconds Time.
# TYPE t_seconds histogram
t_seconds_bucket{le="0.5"} 1
t_seconds_bucket{le="+Inf"} 2
t_seconds_sum 1.2
t_seconds_count 2
# a remark
plain{package="mine",} -3e-4 1700000000000
"""


def test_a_services_own_metrics_get_its_labels_and_stay_one_family() -> None:
    text = render(merge(f for ref in (MAIN, OTHER) for f in own_families(ref, HISTOGRAM)))
    assert text.count("# TYPE t_seconds histogram") == 1
    assert 't_seconds_bucket{package="hello",service="main",le="0.5"} 1\n' in text
    # What it calls package itself is not lost, and is not ours either.
    assert (
        'plain{package="hello",service="main",exported_package="mine"} -3e-4 1700000000000\n'
        in text
    )
    names = [line.split("{")[0] for line in text.splitlines() if line.startswith("t_seconds")]
    assert names == [
        "t_seconds_bucket", "t_seconds_bucket", "t_seconds_sum", "t_seconds_count",
    ] * 2  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        'a{package="x"\n',
        'a{b="1",b="2"} 1\n',
        "a one\n",
        "a 1_0\n",
        "1a 2\n",
        "# TYPE a wrong\na 1\n",
        'a{b="\\x"} 1\n',
        "a 1 2 3\n",
    ],
)
def test_text_that_is_not_the_format_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="line"):
        parse(text)


def test_a_service_cannot_speak_in_our_name() -> None:
    with pytest.raises(ValueError, match="are the system's"):
        own_families(MAIN, 'orbital_service_healthy{package="other",service="main"} 1\n')


def test_families_of_two_types_do_not_meet_in_one_document() -> None:
    one = parse("# TYPE a counter\na 1\n")
    two = parse("# TYPE a gauge\na 2\n")
    assert render(merge([*one, *two])) == "# TYPE a counter\na 1\n"


@contextmanager
def endpoint(text: bytes, status: int = 200) -> Iterator[str]:
    """A service's own endpoint."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
    finally:
        server.shutdown()
        server.server_close()


def bench_with_endpoint(base: Path, address: str) -> Bench:
    """A device on which hello runs with an endpoint."""
    bench = Bench(base)
    service = Service("main", ("/usr/bin/hello",), Check("active"), state=True, metrics=address)
    bench.publish(replace(package("hello", "1.0"), services=(service,)))
    bench.install("hello", "1.0")
    return bench


def without_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: object) -> Completed:
        assert command[:2] == ["systemctl", "show"]
        return Completed(tuple(command), 0, SHOWN, "")

    monkeypatch.setattr("recovery.process.run", run)


def test_the_document_has_packages_services_and_their_own_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_systemd(monkeypatch)
    with endpoint(b"# TYPE greetings_total counter\ngreetings_total 7\n") as address:
        text = metrics.collect(bench_with_endpoint(tmp_path, address).device)
    assert 'greetings_total{package="hello",service="main"} 7\n' in text
    assert 'orbital_service_metrics_up{package="hello",service="main"} 1\n' in text
    info = 'orbital_package_info{package="hello",version="1.0",kind="feature",enabled="true"} 1\n'
    assert info in text
    assert 'orbital_package_installed_timestamp_seconds{package="hello",version="1.0"} ' in text
    assert "orbital_generation 2\n" in text
    # One block for each family, and what we write we can read.
    kinds = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(kinds) == len(set(kinds))
    assert parse(text)


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"garbage {\n", 200), (b"a 1\n", 500), (b"\xff\xfe 1\n", 200), (b"#" * (2 << 20), 200)],
)
def test_a_bad_endpoint_harms_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, status: int
) -> None:
    without_systemd(monkeypatch)
    with endpoint(data, status) as address:
        text = metrics.collect(bench_with_endpoint(tmp_path, address).device)
    assert 'orbital_service_metrics_up{package="hello",service="main"} 0\n' in text
    assert 'orbital_service_healthy{package="hello",service="main"} 1\n' in text


def test_an_endpoint_elsewhere_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_systemd(monkeypatch)
    device = bench_with_endpoint(tmp_path, "http://192.0.2.1:80/metrics").device
    assert 'metrics_up{package="hello",service="main"} 0\n' in metrics.collect(device)


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 200, b"a 1\n"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", 200, b"a 1\n"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", 200, b""),
        (b"GET /other HTTP/1.1\r\n\r\n", 404, b"only /metrics is here\n"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405, b"only GET and HEAD\n"),
        (b"\x16\x03\x01", 400, b"cannot read this request\n"),
        (b"", 400, b"cannot read this request\n"),
    ],
)
def test_one_request_is_answered(request_line: bytes, status: int, body: bytes) -> None:
    out = io.BytesIO()
    assert answer(io.BytesIO(request_line), out, lambda: "a 1\n") == status
    head, _, found = out.getvalue().partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert found == body
