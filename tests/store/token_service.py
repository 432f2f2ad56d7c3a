"""A security token service on loopback: it gives the keys of a MinIO server's user for a service account's token."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from minio.credentials.providers import AssumeRoleProvider
from minio_server import ACCESS_KEY, SECRET_KEY, MinioServer

ROLE = "arn:aws:iam::123456789012:role/team-a"
ANSWER = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{access}</AccessKeyId>
<SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{session}</SessionToken><Expiration>{until}</Expiration>
</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""
REFUSAL = """<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>
<Code>{code}</Code><Message>Not {token}</Message></Error><RequestId>1</RequestId></ErrorResponse>"""


@dataclass
class TokenService:
    endpoint: str
    server: MinioServer
    trusted: set[str] = field(default_factory=set)
    """Tokens that it gives keys for."""
    seconds: float = 3600.0
    """How long it says that they last."""
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Path of each request, and its fields."""
    given: list[str] = field(default_factory=list)
    """Access keys."""

    def answer(self, path: str, form: str) -> tuple[int, str]:
        fields = {name: values[0] for name, values in parse_qs(form).items()}
        self.asked.append((path, fields))
        token = fields["WebIdentityToken"]
        if token not in self.trusted:
            return 403, REFUSAL.format(code="AccessDenied", token=token)
        keys = AssumeRoleProvider(
            sts_endpoint=self.server.endpoint, access_key=ACCESS_KEY, secret_key=SECRET_KEY
        ).retrieve()
        self.given.append(keys.access_key)
        until = (datetime.now(UTC) + timedelta(seconds=self.seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return 200, ANSWER.format(
            access=keys.access_key, secret=keys.secret_key, session=keys.session_token, until=until
        )


@contextmanager
def token_service(server: MinioServer) -> Iterator[TokenService]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = self.rfile.read(int(self.headers["Content-Length"])).decode()
            status, text = service.answer(self.path, form)
            self.send_response(status)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        service = TokenService(f"http://127.0.0.1:{listening.server_port}", server)
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield service
        listening.shutdown()
        thread.join()
