"""The workers' image for CPUs: torch from an index of one's own choice, and nothing that only torch for CUDA needs.

The index is a stand-in with an empty torch: no other than the usual package index can be counted on.
"""

import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from buildah import Images, locked

pytestmark = [pytest.mark.ship, pytest.mark.timeout(1800)]
ONLY_FOR_CUDA = ("nvidia-", "cuda-", "triton")


@pytest.fixture
def torch_index(tmp_path: Path) -> Iterator[str]:
    """URL of an index that has nothing but the locked torch, built for CPUs."""
    version = f"{locked('trainer')['torch']}+cpu"
    info = f"torch-{version}.dist-info"
    (tmp_path / "torch").mkdir()
    wheel = f"torch-{version}-py3-none-any.whl"
    with zipfile.ZipFile(tmp_path / "torch" / wheel, "w") as archive:
        archive.writestr("torch/__init__.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"torch/__init__.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    (tmp_path / "torch" / "index.html").write_text(f'<a href="{wheel.replace("+", "%2B")}">{wheel}</a>')
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_torch_comes_from_that_index_and_nothing_of_cuda_does(
    images: Images, torch_index: str, capsys: pytest.CaptureFixture[str]
) -> None:
    built = images.build("trainer_image/Dockerfile", TORCH_INDEX=torch_index)
    with capsys.disabled():
        print(f"\ntrainer for CPUs, without torch: {built.megabytes:.0f} MB in {built.build_seconds:.0f} s")  # noqa: T201
    wanted = {name: version for name, version in locked("trainer").items() if not name.startswith(ONLY_FOR_CUDA)}
    assert built.packages == wanted | {"torch": f"{wanted['torch']}+cpu", "evolution": "0.1.0"}
    assert len(wanted) > 40
