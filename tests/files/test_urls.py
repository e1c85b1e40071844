"""A URL is fetched whole or not at all, and nothing that was fetched is left behind."""

import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flava_port.errors import InvalidInput
from flava_port.files.download import download
from flava_port.progress import silent


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.content``: whole, cut short, or not at all, as the first part of the path says; flava.pt unless another is named."""

    def do_GET(self):
        how = self.path.split("/")[1]
        if how == "moved":
            self.send_response(302)
            self.send_header("Location", "/whole/flava.pt")
            self.end_headers()
            return
        if how == "missing":
            self.send_error(404)
            return
        content = self.server.content.get(self.path.split("/")[-1].partition("?")[0], self.server.content["flava.pt"])
        self.send_response(200)
        if how == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        elif how != "unannounced":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        sent = content[: len(content) // 2] if how in ("cut", "chunked") else content
        self.wfile.write(b"%x\r\n" % len(content) + sent if how == "chunked" else sent)
        self.close_connection = True

    def log_message(self, *_):
        """Quiet."""


@pytest.fixture(scope="module")
def server(tiny):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content = {"flava.pt": tiny.checkpoint.read_bytes(), "encoder.pkl": tiny.codebook.read_bytes()}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def url(server, monkeypatch, tmp_path):
    """Gives the URL of a path on the server; while a command runs, its downloads lie in ``tmp_path/fetched``."""
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "fetched").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "fetched"))
    return lambda path: f"http://127.0.0.1:{server.server_address[1]}/{path}"


def _convert(run_command, url, tmp_path):
    ran = run_command("convert", "--checkpoint_path", url, "--no-codebook", "--pytorch_dump_folder_path", tmp_path / "out")
    assert not list((tmp_path / "fetched").iterdir())
    return ran


@pytest.mark.parametrize("how", ["whole", "unannounced", "moved"])
def test_a_whole_file_converts(run_command, url, tmp_path, how):
    """A file converts whether the server announces its length or not, and through a redirection."""
    ran = _convert(run_command, url(f"{how}/flava.pt?token=secret"), tmp_path)
    assert ran.status == 0 and "read     flava.pt: " in ran.out, ran.err


def test_a_codebook_alone_is_fetched_too(run_command, url, tmp_path):
    """`convert-codebook` takes a URL too, and leaves nothing of it behind."""
    ran = run_command("convert-codebook", "--checkpoint_path", url("whole/encoder.pkl"), "--pytorch_dump_folder_path", tmp_path / "out")
    assert ran.status == 0 and (tmp_path / "out" / "model.safetensors").exists() and not list((tmp_path / "fetched").iterdir())


@pytest.mark.parametrize("to", ["hf", "torchmultimodal"])
def test_both_files_of_a_conversion_may_be_urls(run_command, url, tmp_path, to):
    """Checkpoint and codebook may both be URLs, for either target, and nothing of them is left behind."""
    files = ["--checkpoint_path", url("whole/flava.pt"), "--codebook_path", url("whole/encoder.pkl")]
    ran = run_command("convert", *files, "--to", to, "--pytorch_dump_folder_path", tmp_path / "out")
    assert ran.status == 0, ran.err
    assert "encoder.pkl" in ran.out and not list((tmp_path / "fetched").iterdir())


def test_a_url_is_no_file_that_a_folder_could_hold(run_command, url, tmp_path, monkeypatch):
    """A URL is no path below the target, so ``--force`` may replace a folder that is called ``http:``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "http:").mkdir()
    (tmp_path / "http:" / "mine").write_text("mine")
    ran = run_command(
        "convert", "--checkpoint_path", url("whole/flava.pt"), "--no-codebook", "--pytorch_dump_folder_path", "http:", "--force"
    )
    assert ran.status == 0, ran.err


@pytest.mark.parametrize(
    ("how", "why"),
    [("cut", "bytes arrived"), ("chunked", "cannot be fetched (the answer broke off)"), ("missing", "the server answered 404")],
    ids=lambda text: text.split()[0],
)
def test_anything_less_is_refused(run_command, url, tmp_path, how, why):
    """A body that ends early, with a length or chunked, and an error page are refused with the reason."""
    ran = _convert(run_command, url(f"{how}/flava.pt"), tmp_path)
    assert ran.status == 2 and why in ran.err and "try again" in ran.err
    assert not (tmp_path / "out").exists()


def test_a_server_that_is_not_there_is_named(run_command, url, tmp_path):
    """If nobody answers, the message has the URL without its password and signature."""
    ran = _convert(run_command, "http://user:secret@127.0.0.1:9/flava.pt?signature=secret", tmp_path)
    assert ran.status == 2 and "http://127.0.0.1:9/flava.pt: cannot be fetched" in ran.err
    assert "secret" not in ran.err and "Errno" not in ran.err


@pytest.mark.parametrize("bad", ["http://[::1/flava.pt", "http://", "https:///x", "http://a b/c", "http://127.0.0.1:port/x"])
def test_a_url_that_is_none_is_refused(run_command, url, tmp_path, bad):
    """A URL that is malformed is refused in one line."""
    ran = _convert(run_command, bad, tmp_path)
    assert ran.status == 2 and len(ran.err.splitlines()) == 1 and bad.partition("?")[0] in ran.err
    assert "not a URL" in ran.err or "not the URL of a file" in ran.err


@pytest.mark.parametrize("name", ["..", "%2e%2e", "a%2F..%2F..%2Fb", "%00", "x" * 300, "ä" * 200, "", "%2F"])
def test_no_url_writes_outside_its_folder(url, tmp_path, name):
    """Whatever the last part of the URL's path is, the file lies in the given folder."""
    inner = tmp_path / "one" / "two"
    inner.mkdir(parents=True)
    try:
        path = download(url(f"whole/{name}"), inner, silent)
    except InvalidInput:
        path = None
    assert path is None or (path.parent == inner and path.is_file())
    assert [*tmp_path.rglob("*.pt")] == [] and {*(tmp_path / "one").iterdir()} == {inner}
