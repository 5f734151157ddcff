"""Files on this machine, on S3 and on whatever else fsspec knows: options, credentials, retries and what errors mean.

`FilesystemConfig` is a part of the job file that stands here because readers, writers and media need it alike. What it
holds of secrets is hidden in all that is printed or dumped; `resolved` fills in what the driver's environment says, so
that workers on other nodes need no environment of their own.

Retries are decided here and nowhere else. A request that S3 throttles (503 SlowDown) or that breaks is sent again by
botocore, a range whose body is cut in the middle is asked for again by s3fs, each with growing pauses: about a minute
in all, after which the error stands. Files are therefore always read in ranges, never as one long stream.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import socket
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import fsspec
from pydantic import BaseModel, ConfigDict, Field, Secret, SecretStr, field_validator, model_validator

from ray_pipelines.errors import StorageError
from ray_pipelines.validation import did_you_mean

__all__ = [
    "COMPRESSIONS",
    "FilesystemConfig",
    "explain",
    "filesystem_of",
    "is_outage",
    "is_remote",
    "missing_bucket",
    "open_file",
    "probe",
    "protocol_of",
    "read_range",
    "storage_errors",
]

S3_PROTOCOLS = ("s3", "s3a")
S3_ENVIRONMENT = {
    "key": ("AWS_ACCESS_KEY_ID",),
    "secret": ("AWS_SECRET_ACCESS_KEY",),
    "token": ("AWS_SESSION_TOKEN",),
    "endpoint_url": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
}
REQUEST_ATTEMPTS = 6
RANGE_ATTEMPTS = 8
STREAM_BLOCK_BYTES = 8 << 20
"""What one request of a file that is read from its start to its end asks for."""
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".xz": "xz", ".lz4": "lz4"}
OUTAGE_CODES = (
    "SlowDown",
    "ServiceUnavailable",
    "InternalError",
    "RequestTimeTooSkewed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "token has expired",
    "reduce your request rate",
)
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class FilesystemConfig(BaseModel):
    """How files are reached; for S3, unset settings come from the environment, as for every AWS tool."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    endpoint_url: str | None = Field(
        None, description="Address of an S3 service other than AWS, e.g. https://minio.example:9000."
    )
    region: str | None = Field(None, description="AWS region of the bucket, e.g. eu-central-1.")
    profile: str | None = Field(None, description="Profile in ~/.aws, which every node must have.")
    anonymous: bool = Field(False, description="Send no credentials: public buckets.")
    key: SecretStr | None = Field(
        None,
        description="Access key id; better left to AWS_ACCESS_KEY_ID. ${NAME} is taken from the environment of whoever "
        "starts the job. Never logged.",
    )
    secret: SecretStr | None = Field(
        None, description="Secret access key; better left to AWS_SECRET_ACCESS_KEY, or ${NAME}. Never logged."
    )
    token: SecretStr | None = Field(
        None, description="Session token of temporary credentials; better AWS_SESSION_TOKEN, or ${NAME}. Never logged."
    )
    hub_token: SecretStr | None = Field(
        None, description="Hugging Face token for hf:// paths; better left to HF_TOKEN, or ${NAME}. Never logged."
    )
    storage_options: Secret[dict[str, Any]] = Field(
        default_factory=lambda: Secret({}),
        description="Further arguments of the fsspec filesystem, e.g. {account_name: …} for az://; texts may be "
        "${NAME}. Hidden as a whole, as it often holds secrets.",
    )

    @field_validator("key", "secret", "token", "hub_token", mode="before")
    @classmethod
    def _from_environment(cls, value: Any) -> Any:
        return _expanded(str(value) if isinstance(value, int) else value)

    @field_validator("storage_options", mode="before")
    @classmethod
    def _options_from_environment(cls, value: Any) -> Any:
        return {name: _expanded(option) for name, option in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _one_identity(self) -> FilesystemConfig:
        given = [name for name in ("profile", "anonymous", "key") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"expected one of profile, anonymous and key; got {' and '.join(given)}. Keep one.")
        if (self.key is None) != (self.secret is None):
            raise ValueError("expected key and secret together; got one of them.")
        return self

    @property
    def s3_settings(self) -> tuple[str, ...]:
        """The settings that are given and that only S3 knows."""
        names = ("endpoint_url", "region", "profile", "anonymous", "key", "token")
        return tuple(name for name in names if getattr(self, name))

    def resolved(self) -> FilesystemConfig:
        """These settings, with what they leave open taken from this process's environment."""
        found = {name: next(filter(None, map(os.environ.get, names)), None) for name, names in S3_ENVIRONMENT.items()}
        values = {name: getattr(self, name) or found[name] for name in ("endpoint_url", "region")}
        if self.hub_token is None and os.environ.get("HF_TOKEN"):
            values["hub_token"] = SecretStr(os.environ["HF_TOKEN"])
        if not (self.key or self.profile or self.anonymous):
            if found["key"] and found["secret"]:
                values |= {name: SecretStr(value) for name in ("key", "secret", "token") if (value := found[name])}
            else:
                values["profile"] = os.environ.get("AWS_PROFILE")
        return self.model_copy(update=values)

    def options(self, protocol: str) -> dict[str, Any]:
        """The arguments of fsspec's filesystem for `protocol`; they hold secrets."""
        if protocol in ("file", "local"):
            return {}
        further = self.storage_options.get_secret_value()
        if protocol == "hf" and self.hub_token:
            return {"token": self.hub_token.get_secret_value(), **further}
        if protocol not in S3_PROTOCOLS:
            return dict(further)
        options: dict[str, Any] = {
            "anon": self.anonymous,
            "use_listings_cache": False,
            "config_kwargs": {
                "retries": {"mode": "standard", "max_attempts": REQUEST_ATTEMPTS},
                "connect_timeout": 10,
                "read_timeout": 60,
            },
        }
        for name, value in (("endpoint_url", self.endpoint_url), ("profile", self.profile)):
            options |= {name: value} if value else {}
        for name in ("key", "secret", "token"):
            secret = getattr(self, name)
            options |= {name: secret.get_secret_value()} if secret else {}
        if self.region:
            options["client_kwargs"] = {"region_name": self.region}
        return {**options, **further}

    def scrub(self, text: str) -> str:
        """`text` without the secrets of these settings, and without signatures and passwords in addresses."""
        hidden = (self.key, self.secret, self.token, self.hub_token)
        secrets = [secret.get_secret_value() for secret in hidden if secret]
        secrets += [value for value in self.storage_options.get_secret_value().values() if isinstance(value, str)]
        for secret in sorted(filter(lambda secret: len(secret) >= 4, secrets), key=len, reverse=True):
            text = text.replace(secret, "***")
        text = re.sub(r"(\w+://)[^/\s@]+@", r"\1***@", text)
        return re.sub(r"(\w+://[^\s?'\"]+\?)[^\s'\"]+", r"\1***", text)


def _expanded(value: Any) -> Any:
    """A text with each `${NAME}` replaced by that variable of the environment."""
    if not isinstance(value, str):
        return value
    for name in _VARIABLE.findall(value):
        if name not in os.environ:
            raise ValueError(f"${{{name}}}: the environment has no such variable. Export it, or correct the name.")
    return _VARIABLE.sub(lambda match: os.environ[match[1]], value)


def protocol_of(uri: str) -> str:
    """The scheme of a URI in lower case; `file` for a path."""
    scheme, separator, _ = uri.partition("://")
    return scheme.lower() if separator else "file"


def is_remote(uri: str) -> bool:
    """Whether `uri` is somewhere else than in this machine's file system."""
    return protocol_of(uri) not in ("file", "local")


def filesystem_of(uri: str, config: FilesystemConfig) -> tuple[Any, str]:
    """The fsspec filesystem of `uri`, and the path in it."""
    filesystem, path = fsspec.core.url_to_fs(uri, **config.options(protocol_of(uri)))
    if protocol_of(uri) in S3_PROTOCOLS:
        filesystem.retries = RANGE_ATTEMPTS
    return filesystem, path


def open_file(uri: str, config: FilesystemConfig, *, random_access: bool = False) -> Any:
    """The file, open for reading bytes, decompressed if its name says so (gz, bz2, zst, xz, lz4).

    Args:
        uri: Path or URI.
        config: How to reach it.
        random_access: Read exactly the ranges that are asked for, and decompress nothing; otherwise blocks are read
            ahead.
    """
    filesystem, path = filesystem_of(uri, config)
    if random_access:
        return filesystem.open(path, "rb", **({"cache_type": "none"} if is_remote(uri) else {}))
    if is_remote(uri):
        # fsspec's own files find the ends of lines in Python, and only of whole lines.
        file = io.BufferedReader(filesystem.open(path, "rb", block_size=STREAM_BLOCK_BYTES), 1 << 20)
    else:
        file = filesystem.open(path, "rb")
    compression = COMPRESSIONS.get(posixpath.splitext(path.lower())[1])
    return _decompressed(file, compression) if compression else file


def _decompressed(file: Any, compression: str) -> Any:
    if compression == "xz":
        import lzma

        return lzma.open(file)
    if compression == "gzip":
        import gzip

        return gzip.open(file)
    if compression == "bz2":
        import bz2

        return bz2.open(file)
    import pyarrow as pa

    return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, "r"), compression), 1 << 20)


def read_range(uri: str, config: FilesystemConfig, num_bytes: int) -> bytes:
    """The first bytes of a file, `num_bytes` at most, in one request."""
    filesystem, path = filesystem_of(uri, config)
    if not is_remote(uri):
        with filesystem.open(path, "rb") as file:
            data = file.read(num_bytes)
    elif protocol_of(uri) in ("http", "https"):
        # A web server may answer with the whole file, whatever range is asked for.
        with filesystem.open(path, "rb", block_size=0) as file:
            data = b""
            while len(data) < num_bytes and (part := file.read(num_bytes - len(data))):
                data += part
    else:
        try:
            data = filesystem.cat_file(path, start=0, end=num_bytes)
        except OSError as error:
            # S3 has no range in an empty object.
            if "InvalidRange" not in f"{error!r} {error.__cause__!r}" and "range" not in str(error):
                raise
            data = b""
    assert isinstance(data, bytes)
    return data


def storage_errors() -> tuple[type[Exception], ...]:
    """What opening, listing, reading and writing files raise."""
    errors: tuple[type[Exception], ...] = (OSError, ValueError, ImportError)
    try:
        from aiohttp import ClientError
        from botocore.exceptions import BotoCoreError
    except ImportError:
        return errors
    return (*errors, BotoCoreError, ClientError)


def _is_refused_by_name(error: Exception) -> bool:
    """Whether an S3 client does not even ask, as there can be no such bucket or key."""
    try:
        from botocore.exceptions import ParamValidationError
    except ImportError:
        return False
    return isinstance(error, ParamValidationError)


def is_outage(error: Exception) -> bool:
    """Whether `error` says that the storage does not answer, or no longer takes the credentials: no file's fault."""
    texts = f"{error!r} {error.__cause__!r}"
    if any(code in texts for code in OUTAGE_CODES):
        return True
    if isinstance(error, FileNotFoundError | PermissionError | ImportError | ValueError) or _is_refused_by_name(error):
        return False
    own_errors = storage_errors()[3:]
    return isinstance(error, (ConnectionError, TimeoutError, socket.gaierror, *own_errors))


def no_answer(uri: str, error: Exception, config: FilesystemConfig) -> StorageError:
    """What to raise of an outage (`is_outage`)."""
    return StorageError(f"{config.scrub(uri)}: the storage does not answer: {explain(uri, error, config)}")


def explain(uri: str, error: Exception, config: FilesystemConfig, section: str = "read") -> str:
    """Why `uri` cannot be reached, and what to do about it; without secrets.

    Args:
        uri: Path or URI.
        error: What was raised.
        config: How it was reached.
        section: Part of the job file that holds `config`.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    name = type(error).__name__
    if protocol_of(uri) in S3_PROTOCOLS:
        text = _explain_s3(uri, name, text, config).replace("filesystem.", f"{section}.filesystem.")
    elif isinstance(error, ImportError):
        text = f"{text}. Install the library of this kind of storage on every node."
    elif isinstance(error, ValueError) and "Protocol not known" in text:
        known = fsspec.available_protocols()
        text = f"{protocol_of(uri)!r} is no protocol that fsspec knows.{did_you_mean(protocol_of(uri), known)}"
    return config.scrub(text)


def _explain_s3(uri: str, name: str, text: str, config: FilesystemConfig) -> str:
    bucket = urlsplit(uri).netloc
    lower = text.lower()
    if name in ("ImportError", "ModuleNotFoundError"):
        return f"{text}. pip install 'ray-pipelines[s3]'."
    if name in ("NoCredentialsError", "PartialCredentialsError") or "unable to locate credentials" in lower:
        return (
            "there are no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, filesystem.profile, or "
            "filesystem.anonymous: true for a public bucket."
        )
    if name == "ProfileNotFound":
        return f"{text}. Set filesystem.profile to one in ~/.aws."
    if "bucket does not exist" in lower or "nosuchbucket" in lower:
        return (
            f"there is no bucket {bucket!r}.{_nearest_bucket(uri, config)} Check its name and filesystem.endpoint_url."
        )
    if name == "PermissionError" or "forbidden" in lower or "access denied" in lower:
        return (
            f"{text.rstrip('.')}. The credentials are wrong, or may not do this in bucket {bucket!r}: check them (key "
            "and secret, profile, AWS_* in the environment) and the bucket's policy."
        )
    if "connect" in name.lower() or "could not connect" in lower:
        return f"{text.rstrip('.')}. Check filesystem.endpoint_url and the network."
    if "301" in text or "redirect" in lower or "region" in lower:
        return f"{text.rstrip('.')}. Set filesystem.region to the bucket's region."
    return text


def _nearest_bucket(uri: str, config: FilesystemConfig) -> str:
    filesystem, path = filesystem_of(uri, config)
    try:
        names = [name.strip("/") for name in filesystem.ls("", detail=False)]
    except storage_errors():
        return ""
    return did_you_mean(path.split("/")[0], names)


def missing_bucket(uri: str, config: FilesystemConfig) -> str | None:
    """Why the S3 bucket of `uri` cannot be written to, or None; a bucket has no folders to look for before."""
    if protocol_of(uri) not in S3_PROTOCOLS:
        return None
    try:
        filesystem, path = filesystem_of(uri, config)
        filesystem.call_s3("head_bucket", Bucket=path.split("/")[0])
    except FileNotFoundError:
        bucket, hint = urlsplit(uri).netloc, _nearest_bucket(uri, config)
        return f"path: there is no bucket {bucket!r}.{hint} Check its name and write.filesystem.endpoint_url."
    except storage_errors():
        # Who may not ask for the bucket may still write to it; other reasons show when it is listed.
        return None
    return None


def probe(uri: str, config: FilesystemConfig) -> str | None:
    """Why the server of an S3 service of one's own cannot be connected to, or None.

    A library that repeats its requests would find out only after a minute.
    """
    if protocol_of(uri) not in S3_PROTOCOLS or not config.endpoint_url or getproxies():
        return None
    address = urlsplit(config.endpoint_url)
    if address.scheme not in ("http", "https") or not address.hostname:
        return f"filesystem.endpoint_url: expected http(s)://host[:port]; got {config.scrub(config.endpoint_url)!r}."
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), timeout=10).close()
    except OSError as error:
        reason = error.strerror or str(error)
        return f"filesystem.endpoint_url: cannot connect to {address.hostname}:{port}: {reason}. Check the address."
    return None
