"""Where the service listens, whom it answers, and what a request may cost."""

import ipaddress
import stat
from dataclasses import dataclass, field
from pathlib import Path

MIN_TOKEN = 16


@dataclass(frozen=True)
class Limits:
    """What a request may cost at most. All of them exist so that memory stays bounded, whoever asks."""

    picture_bytes: int = 16 * 2**20
    """Size of one uploaded picture."""
    picture_pixels: int = 50_000_000
    """Width × height of a picture, read from its header before it is decoded."""
    pictures: int = 4
    """Pictures in one request."""
    parts: int = 16
    """Parts of one query, pictures included."""
    examples: int = 64
    """Items in "more like these" and "less like those", each."""
    text: int = 2_000
    """Characters of one text."""
    filter: int = 1_000
    """Characters of a filter."""
    results: int = 200
    """Results of one search."""
    decode_seconds: float = 10.0
    """Time that decoding one picture may take; then its process is killed."""
    decode_memory_mb: int = 1536
    """Memory that a decoding process may take on top of what it starts with."""
    body_seconds: float = 30.0
    """Time in which a request has to arrive."""
    bodies_mb: int = 256
    """Memory for the bodies of all requests together; past it, 503."""
    requests: int = 128
    """Requests that are worked on at once; the next one is told to come back (503)."""
    wait_seconds: float = 30.0
    """Time that a request waits for the encoder, in all; then it is told to come back (503)."""
    thumbnail_cache_mb: int = 64
    """Memory for thumbnails that were made before."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"limits.{name} must be above 0, got {value}")

    @property
    def body_bytes(self) -> int:
        """Of a whole request: its pictures, and 256 kB for everything else."""
        return self.pictures * self.picture_bytes + 2**18


@dataclass(frozen=True)
class Batching:
    """How requests share the encoder."""

    size: int = 32
    """Inputs in one batch at most."""
    window_ms: float = 4.0
    """How long a batch that is not full waits for more, in milliseconds."""
    queue: int = 256
    """Inputs that may wait; further ones are refused with 503 and Retry-After."""

    def __post_init__(self) -> None:
        if self.size < 1 or self.queue < 1 or self.window_ms < 0:
            raise ValueError(
                f"batching.size and batching.queue must be at least 1, batching.window_ms not negative; got size="
                f"{self.size}, queue={self.queue}, window_ms={self.window_ms}"
            )


@dataclass(frozen=True)
class ServiceConfig:
    """The service of `fieldmark serve`."""

    index: str
    """Folder of the index (`fieldmark index build`)."""
    encoder: str | None = None
    """Run or encoder folder. Not given: the one that the index was built with, at its old place."""
    device: str = "cpu"
    """Where the encoder computes: cpu, cuda, cuda:1 …"""
    host: str = "127.0.0.1"
    """Address to listen on. Any but this computer's own demands token_file, or insecure."""
    port: int = 8077
    """Port to listen on; 0 takes a free one."""
    token_file: str | None = None
    """File with a secret of 16 characters or more. Who sends it may add and delete items; on an address that others
    reach, nothing but the page's own files is answered without it."""
    insecure: bool = False
    """Listen on an address that others reach without a token: everyone there can see every picture."""
    allowed_hosts: list[str] = field(default_factory=list)
    """Further names under which browsers reach the service (a reverse proxy's), beside host and this computer's own."""
    decode_workers: int = 2
    """Processes that decode pictures."""
    limits: Limits = field(default_factory=Limits)
    """What a request may cost."""
    batching: Batching = field(default_factory=Batching)
    """How requests share the encoder."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be from 0 to 65535, got {self.port}")
        if self.decode_workers < 1:
            raise ValueError(f"decode_workers must be at least 1, got {self.decode_workers}")
        if not self.host:
            raise ValueError("host is empty: 127.0.0.1 listens on this computer only")
        if not is_loopback(self.host) and self.token_file is None and not self.insecure:
            raise ValueError(
                f"host {self.host} can be reached by others: give --token_file FILE (a file with a secret of "
                f"{MIN_TOKEN} characters or more), or say --insecure if everyone may see every picture"
            )


def is_loopback(host: str) -> bool:
    """Whether only this computer reaches the address."""
    name = host.strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:  # a name: whatever it stands for today, it is not sure to stay on this computer
        return False


def read_token(path: str | Path) -> str:
    """The secret of a token file: its content without white space around it.

    Raises:
        ValueError: the file is missing, readable by others, too short, or holds more than one line.
    """
    file = Path(path)
    try:
        mode = file.stat().st_mode
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the token file {file} cannot be read ({error})") from error
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        raise ValueError(f"others on this computer can read the token file {file}: chmod 600 {file}")
    if len(text) < MIN_TOKEN:
        raise ValueError(
            f"the token in {file} has {len(text)} characters, fewer than {MIN_TOKEN}: make one with "
            f"`python -c 'import secrets; print(secrets.token_urlsafe(32))' > {file}`"
        )
    if not text.isascii() or any(c.isspace() or not c.isprintable() for c in text):
        raise ValueError(f"the token in {file} must be one word of printable ASCII characters")
    return text
