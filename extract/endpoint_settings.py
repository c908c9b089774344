"""How a captioning server is reached: settings without the client, so that they are checked in no time."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator


class EndpointConfig(BaseModel):
    """A server that speaks OpenAI's chat protocol, such as vLLM's; pictures are sent to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    """Its address up to the version, such as http://127.0.0.1:8000/v1."""
    allowed_hosts: tuple[str, ...] = Field(min_length=1)
    """Hosts that pictures may be sent to; the address must be on one of them."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key, which is never written anywhere."""
    concurrency: int = Field(default=8, ge=1, le=64)
    """Requests under way at once; `batch_size` should be several times as large."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds to wait for the server to go on with an answer."""
    retries: int = Field(default=5, ge=0)
    """Further tries after no answer, or one of the kind "later" (408, 425, 429, 5xx)."""
    backoff: float = Field(default=0.5, gt=0)
    """Seconds before the first further try, doubled each time up to 60; Retry-After goes before."""
    jpeg_quality: int | None = Field(default=None, ge=50, le=100)
    """Send JPEG of this quality; null: PNG, every pixel as it was decoded."""

    @model_validator(mode="after")
    def _is_allowed(self) -> EndpointConfig:
        # Checked here and not per field: what is refused may hold a secret, and a field's value is shown.
        address = urlsplit(self.url)
        if address.scheme not in {"http", "https"} or not address.hostname:
            raise ValueError("`url` must begin with http:// or https:// and name a host")
        if "@" in address.netloc or address.query:
            raise ValueError("`url` must hold no credentials; name a variable in `api_key_env`")
        if address.hostname not in {host.lower() for host in self.allowed_hosts}:
            raise ValueError(f"the host {address.hostname} of `url` is not among `allowed_hosts`")
        if self.api_key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.api_key_env):
            raise ValueError("`api_key_env` is a variable's name in capitals, and not the key itself")
        return self

    @property
    def picture_part(self) -> str:
        """How pictures are sent, for a fingerprint."""
        return "png" if self.jpeg_quality is None else f"jpeg-{self.jpeg_quality}"
