"""Over real connections, as Prometheus comes."""

import asyncio
import gzip
import shutil
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from controlplane.certificates import Authority, Certificate
from controlplane.processes import Port
from controlplane.waiting import eventually
from prometheus_server import StartPrometheus, Target
from shown_run import shown_run
from told_metrics import Told

from evolution_operator.metrics_server import metrics_served
from evolution_operator.settings import Settings, WrongSettings

PAGE = b"# TYPE a gauge\na 1\n"


class Scraper:
    """Asks the server for a path; the connection is kept open."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self._base = base
        self.address = base.partition("://")[2]

    async def get(self, path: str = "/metrics", **headers: str) -> tuple[int, bytes, str]:
        """Status, body as sent, content type."""
        async with self._session.get(self._base + path, headers={"Accept-Encoding": "identity", **headers}) as answer:
            return answer.status, await answer.read(), answer.headers["Content-Type"]

    async def certificate(self) -> str:
        """The one that a new connection is shown, in PEM."""
        host, _, port = self.address.partition(":")
        return await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))


def served(
    what: Callable[[Scraper], Awaitable[None]], page: Callable[[str], tuple[bytes, str]] | None = None, **settings: Any
) -> None:
    """Do `what` while metrics are served with these settings."""

    async def act() -> None:
        port = Port()
        port.release()
        of = Settings(store="file:///store", metrics_port=port.number, **settings)
        trust: ssl.SSLContext | bool = True
        if of.metrics_certificate:
            trust = ssl.create_default_context(cafile=str(Path(of.metrics_certificate).parent / "authority.crt"))
        async with (
            metrics_served(of, page or (lambda _accept: (PAGE, "text/plain; version=0.0.4; charset=utf-8"))),
            aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(ssl=trust)) as session,
        ):
            scheme = "https" if of.metrics_certificate else "http"
            await what(Scraper(session, f"{scheme}://127.0.0.1:{port.number}"))

    asyncio.run(act())


def certificates(folder: Path, names: tuple[str, ...]) -> list[Certificate]:
    authority = Authority.at(folder, "authority")
    return [authority.sign(name, "metrics", names=("IP:127.0.0.1",)) for name in names]


def test_the_page_is_at_metrics_and_nothing_elsewhere() -> None:
    async def scrape(scraper: Scraper) -> None:
        assert await scraper.get() == (200, PAGE, "text/plain; version=0.0.4; charset=utf-8")
        for path in ("/", "/metrics/", "/healthz"):
            assert (await scraper.get(path))[0] == 404

    served(scrape)


def test_it_is_compressed_for_those_who_take_it_so() -> None:
    async def scrape(scraper: Scraper) -> None:
        assert gzip.decompress((await scraper.get(**{"Accept-Encoding": "gzip"}))[1]) == PAGE

    served(scrape)


def test_the_page_knows_which_format_was_asked_for() -> None:
    async def scrape(scraper: Scraper) -> None:
        assert (await scraper.get(Accept="application/openmetrics-text"))[1:] == (
            b"application/openmetrics-text",
            "x/y",
        )

    served(scrape, lambda accept: (accept.encode(), "x/y"))


def test_without_the_token_nothing_is_told(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("secret-1\n")

    async def scrape(scraper: Scraper) -> None:
        for wrong in ("", "secret-1", "Bearer", "Bearer secret", "Bearer secret-11", "Basic secret-1", "Bearer sécret"):
            status, body, _ = await scraper.get(**({"Authorization": wrong} if wrong else {}))
            assert status == 401, wrong
            assert PAGE not in body
        assert (await scraper.get(Authorization="Bearer secret-1"))[0] == 200

    served(scrape, metrics_token_file=str(file))


def test_a_new_token_holds_as_soon_as_the_file_has_it(tmp_path: Path) -> None:
    """A Secret that is mounted as a folder changes by a link that is replaced."""
    (tmp_path / "1").write_text("first")
    (tmp_path / "2").write_text("other")
    link = tmp_path / "token"
    link.symlink_to("1")

    async def scrape(scraper: Scraper) -> None:
        assert (await scraper.get(Authorization="Bearer first"))[0] == 200
        (tmp_path / "new").symlink_to("2")
        (tmp_path / "new").rename(link)
        assert (await scraper.get(Authorization="Bearer first"))[0] == 401
        assert (await scraper.get(Authorization="Bearer other"))[0] == 200
        link.unlink()
        assert (await scraper.get(Authorization="Bearer other"))[0] == 200

    served(scrape, metrics_token_file=str(link))


def test_https_with_a_certificate_that_may_change(tmp_path: Path) -> None:
    first, second = certificates(tmp_path, ("first", "second"))
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    for source, target in ((first.file, certificate), (first.key, key)):
        shutil.copy(source, target)

    async def scrape(scraper: Scraper) -> None:
        assert await scraper.certificate() == first.file.read_text()
        shutil.copy(second.file, certificate)
        assert await scraper.certificate() == first.file.read_text(), "as long as the key does not fit"
        shutil.copy(second.key, key)
        assert await scraper.certificate() == second.file.read_text()
        assert (await scraper.get())[1] == PAGE

    served(scrape, metrics_certificate=str(certificate), metrics_key=str(key))


@pytest.mark.parametrize("content", [None, ""], ids=["missing", "empty"])
@pytest.mark.parametrize("flag", ["--metrics-token-file", "--metrics-certificate"])
def test_a_file_that_cannot_be_used_is_named_before_anything_is_served(
    tmp_path: Path, flag: str, content: str | None
) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_text(content)
    setting = {flag.removeprefix("--").replace("-", "_"): str(file)}
    with pytest.raises(WrongSettings, match=f"{flag} '{file}'.*cannot be used"):
        asyncio.run(serve_nothing(Settings("file:///s", metrics_port=1, metrics_key=str(file), **setting)))


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(WrongSettings, match=f"--metrics-port {port}: cannot be listened on"):
            asyncio.run(serve_nothing(Settings("file:///s", metrics_port=port)))


def test_promtool_finds_nothing_to_complain_of_but_the_name_of_a_label(promtool: Path) -> None:
    """That a gauge may not have the label quantile is a matter of taste: these are quantiles of a round's data."""
    here = Told(Settings(store="file:///store", gpu_prices=(("h100", 2.5),)))
    here.tell(shown_run())
    page = here.metrics.page("")[0]
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, check=False)
    complaints = (done.stdout + done.stderr).decode().splitlines()
    assert [line for line in complaints if not line.endswith('should not have "quantile" label')] == []


@pytest.mark.slow
def test_a_real_prometheus_reads_the_page_in_both_formats_through_tls_and_token(
    tmp_path: Path, start_prometheus: StartPrometheus
) -> None:
    (mine,) = certificates(tmp_path, ("mine",))
    token = tmp_path / "token"
    token.write_text("secret")
    here = Told(Settings(store="file:///store", gpu_prices=(("h100", 2.5),)))
    here.tell(shown_run("contracts", "team-legal"))

    async def scrape(scraper: Scraper) -> None:
        settings = {
            "scheme": "https",
            "tls_config": {"ca_file": str(tmp_path / "authority.crt")},
            "authorization": {"credentials_file": str(token)},
        }
        protocols = {"plain": "PrometheusText0.0.4", "open": "OpenMetricsText1.0.0"}
        targets = [
            Target(job, scraper.address, settings={**settings, "scrape_protocols": [protocol]})
            for job, protocol in protocols.items()
        ]
        prometheus = await asyncio.to_thread(start_prometheus, targets)

        def both() -> bool:
            return prometheus.value("count(up == 1)") == 2

        await asyncio.to_thread(eventually, both, "both scrapes")

        def series(job: str) -> dict[frozenset[tuple[str, str]], float]:
            found = prometheus.query(f'{{job="{job}", __name__=~"evolution_(run|stage|round|gpu).+"}}')
            return {frozenset((of.labels | {"job": ""}).items()): of.value for of in found}

        plain, openmetrics = [await asyncio.to_thread(series, job) for job in protocols]
        assert plain == openmetrics
        phase = 'evolution_run_phase{job="open", namespace="team-legal", run="contracts", phase="Running"}'
        assert await asyncio.to_thread(prometheus.value, phase) == 1

    served(
        scrape,
        here.metrics.page,
        metrics_certificate=str(mine.file),
        metrics_key=str(mine.key),
        metrics_token_file=str(token),
    )


async def serve_nothing(settings: Settings) -> None:
    async with metrics_served(settings, lambda _accept: (b"", "")):
        raise AssertionError("it is served")
