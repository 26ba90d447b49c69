"""Where the API server is, and as whom we ask it: in a pod its ServiceAccount, elsewhere a kubeconfig."""

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from windlass_operator.kubernetes.errors import NoAccess

if TYPE_CHECKING:
    from kubernetes.client import Configuration

logger = logging.getLogger(__name__)

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
KEPT_SECONDS = 60.0
"""Credentials are looked at again after this time: the kubelet renews a ServiceAccount's token in its file."""


@dataclass(frozen=True)
class Credentials:
    """An API server, and as whom to ask it."""

    url: str
    authorization: str | None = field(default=None, repr=False)
    """The header of that name."""
    tls: ssl.SSLContext | None = None
    """Whom we trust, and our certificate if that says who we are; None for an http:// URL."""
    server_name: str | None = None
    """In the server's certificate, where it is not the URL's host."""
    proxy: str | None = None


class Access:
    """Credentials that stay valid."""

    def __init__(self, load: Callable[[bool], Credentials]) -> None:
        """`load(anew)` gets them; with `anew`, the last ones were refused. It may block, and raises NoAccess."""
        self._load = load
        self._credentials = load(False)
        self._loaded = time.monotonic()
        self._lock = asyncio.Lock()

    async def credentials(self) -> Credentials:
        """Those of now."""
        if time.monotonic() - self._loaded > KEPT_SECONDS:
            await self._renew(self._credentials, anew=False)
        return self._credentials

    async def refused(self, credentials: Credentials) -> None:
        """The API server answered 401 to these: get others, once for all requests that were refused together."""
        await self._renew(credentials, anew=True)

    async def _renew(self, known: Credentials, *, anew: bool) -> None:
        async with self._lock:
            if known is not self._credentials:
                return  # another request has done it
            try:
                self._credentials = await asyncio.to_thread(self._load, anew)
            except NoAccess as error:
                logger.warning("credentials could not be renewed; going on with those at hand: %s", error)
            self._loaded = time.monotonic()


def load_access() -> Access:
    """Access as kubectl would have it: KUBECONFIG, else this pod's ServiceAccount, else ~/.kube/config.

    Raises NoAccess where there is none of them.
    """
    default = Path.home() / ".kube/config"
    if kubeconfig := os.environ.get("KUBECONFIG"):
        return from_kubeconfig(kubeconfig)
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return in_cluster()
    if default.exists():
        return from_kubeconfig(str(default))
    raise NoAccess(f"no cluster to talk to: KUBECONFIG is not set, this is no pod, and there is no {default}")


def in_cluster(folder: Path = SERVICE_ACCOUNT) -> Access:
    """Access with the ServiceAccount that the kubelet mounted."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"

    def load(anew: bool) -> Credentials:
        try:
            token, authorities = (folder / "token").read_text().strip(), (folder / "ca.crt").read_text()
        except OSError as error:
            raise NoAccess(f"{folder}: {error.strerror}; does the pod mount its ServiceAccount's token?") from error
        return Credentials(url, f"Bearer {token}", _trusting(authorities))

    return Access(load)


@lru_cache(maxsize=1)
def _trusting(authorities: str) -> ssl.SSLContext:
    """The same context while the file says the same, so that connections are kept."""
    return ssl.create_default_context(cadata=authorities)


def from_kubeconfig(path: str, context: str | None = None) -> Access:
    """Access as in a kubeconfig: certificates, tokens, and commands that print tokens."""
    from kubernetes.client import Configuration  # 30 MiB that a pod need not have
    from kubernetes.config.config_exception import ConfigException
    from kubernetes.config.kube_config import load_kube_config

    last: tuple[Configuration, ssl.SSLContext] | None = None

    def load(anew: bool) -> Credentials:
        nonlocal last
        try:
            if last is None or anew:
                configuration = Configuration()
                load_kube_config(path, context, configuration, persist_config=False)
                last = configuration, _tls(configuration)
            configuration, tls = last
            # The getter runs a command again whose token's time is over.
            token = configuration.get_api_key_with_prefix("authorization", "BearerToken")
        except (ConfigException, OSError) as error:
            raise NoAccess(f"the kubeconfig {path} cannot be used: {error}") from error
        server_name = getattr(configuration, "tls_server_name", None)
        return Credentials(configuration.host.rstrip("/"), token, tls, server_name, configuration.proxy)

    return Access(load)


def _tls(configuration: "Configuration") -> ssl.SSLContext:
    tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if not configuration.verify_ssl:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    if configuration.cert_file:
        tls.load_cert_chain(configuration.cert_file, configuration.key_file)
    return tls
