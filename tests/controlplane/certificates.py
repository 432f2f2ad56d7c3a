"""A certificate authority in a folder, by the openssl program."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

DAYS = "3650"
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-sha256")


@dataclass(frozen=True)
class Certificate:
    """Two PEM files."""

    file: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """Signs certificates; what stands in its folder already is used again."""

    own: Certificate

    @classmethod
    def at(cls, folder: Path, name: str) -> Self:
        own = Certificate(folder / f"{name}.crt", folder / f"{name}.key")
        if not own.file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            openssl(
                *("req", "-x509", *NEW_KEY, "-days", DAYS, "-subj", f"/CN={name}"),
                *("-addext", "keyUsage=critical,digitalSignature,keyCertSign,cRLSign"),
                *("-addext", "basicConstraints=critical,CA:true"),
                *("-keyout", own.key, "-out", own.file),
            )
        return cls(own)

    def sign(
        self, file_name: str, common_name: str, organizations: tuple[str, ...] = (), names: tuple[str, ...] = ()
    ) -> Certificate:
        """A certificate for clients and servers.

        Kubernetes reads the user from the common name and its groups from the organizations. `names` are the server's
        own, as `IP:127.0.0.1` or `DNS:localhost`.
        """
        folder = self.own.file.parent
        signed = Certificate(folder / f"{file_name}.crt", folder / f"{file_name}.key")
        if signed.file.exists():
            return signed
        subject = "".join(f"/O={organization}" for organization in organizations) + f"/CN={common_name}"
        request, extensions = folder / f"{file_name}.csr", folder / f"{file_name}.ext"
        usage = "keyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth,serverAuth\n"
        extensions.write_text(usage + (f"subjectAltName={','.join(names)}\n" if names else ""))
        openssl("req", *NEW_KEY, "-keyout", signed.key, "-out", request, "-subj", subject)
        openssl(
            *("x509", "-req", "-in", request, "-CA", self.own.file, "-CAkey", self.own.key, "-CAcreateserial"),
            *("-days", DAYS, "-sha256", "-extfile", extensions, "-out", signed.file),
        )
        return signed


def key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Private and public key, without a certificate."""
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    if not public.exists():
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private)
        openssl("ec", "-in", private, "-pubout", "-out", public)
    return private, public


def openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {arguments[0]} failed: {done.stderr.strip()}")
