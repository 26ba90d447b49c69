"""A connection to a Kubernetes API server: kubeconfig, credentials, requests.

Access comes from the `kubernetes` package as kubectl would have it: contexts, exec plugins, certificates, a pod's own
account. Objects are plain JSON, since their fields may be those of a newer Windlass.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import urllib3
import yaml
from kubernetes.client import Configuration
from kubernetes.client.rest import RESTClientObject
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.incluster_config import load_incluster_config
from kubernetes.config.kube_config import list_kube_config_contexts, load_kube_config

from windlass.cli.cluster.refusals import refusal
from windlass.errors import WindlassError
from windlass.spec.encoding import json_and_yaml
from windlass.spec.problems import did_you_mean

Object = dict[str, Any]
"""A Kubernetes object as JSON."""
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 30.0


@dataclass(frozen=True)
class Cluster:
    """One API server, the namespace that commands look at, and what they call themselves there."""

    server: str
    namespace: str
    flags: str
    """Options that lead other commands to the same place, as in " --context prod --namespace ml"."""
    _http: urllib3.PoolManager
    _token: Callable[[], str | None]

    def request(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        content: str = "application/json",
        accept: str = "application/json",
        **query: Any,
    ) -> Object:
        """The answer to one request. Raises WindlassError in the words of `windlass.cli.cluster.refusals`."""
        with closing(self._open(method, path, body, content, accept, query)) as answer:
            return dict(json.loads(self._read(answer)))

    def lines(self, path: str, *, silence: float | None = None, **query: Any) -> Iterator[bytes]:
        """The lines of a stream, a watch or a log, as they come; `silence` seconds without one end it with an error."""
        with closing(self._open("GET", path, None, "", "*/*", query, silence)) as answer:
            rest = b""
            try:
                for piece in answer.stream(1 << 16):
                    *whole, rest = (rest + piece).split(b"\n")
                    yield from whole
            except urllib3.exceptions.HTTPError as error:
                raise self._unreachable(error) from error
            if rest:
                yield rest

    def _open(
        self,
        method: str,
        path: str,
        body: Object | None,
        content: str,
        accept: str,
        query: dict[str, Any],
        silence: float | None = ANSWER_SECONDS,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": accept, "User-Agent": "windlass"}
        if body is not None:
            headers["Content-Type"] = content
        if token := self._token():
            headers["Authorization"] = token
        url = f"{self.server}{path}" + (f"?{urlencode(query)}" if query else "")
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=silence)
        data = None if body is None else json_and_yaml(body)
        try:
            answer = self._http.request(
                method, url, body=data, headers=headers, timeout=timeout, preload_content=False, retries=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from error
        if answer.status >= 400:
            with closing(answer):
                raise refusal(answer.status, self._read(answer), self.server)
        return answer

    def _read(self, answer: urllib3.BaseHTTPResponse) -> bytes:
        try:
            return answer.data
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> WindlassError:
        why = str(error).rpartition("object at 0x")[2].partition(": ")[2] or str(error)
        return WindlassError(
            "ClusterUnavailable",
            f"the API server at {self.server} cannot be reached: {why}; check the network, and the context: "
            "kubectl config get-contexts",
        )


def connect(context: str | None = None, namespace: str | None = None) -> Cluster:
    """The cluster of a context of the kubeconfig, or the one that this process runs in.

    Raises:
        WindlassError: ClusterUnavailable, where no kubeconfig leads to a cluster.
    """
    flags = "".join(f" --{name} {value}" for name, value in (("context", context), ("namespace", namespace)) if value)
    configuration = Configuration()
    try:
        found = _configure(configuration, context)
    except (ConfigException, OSError, ValueError, yaml.YAMLError) as error:
        raise WindlassError("ClusterUnavailable", f"no cluster to connect to: {error}") from error
    if not configuration.verify_ssl:
        urllib3.disable_warnings()  # the kubeconfig asks for it: insecure-skip-tls-verify
    http = RESTClientObject(configuration).pool_manager

    def token() -> str | None:
        return configuration.get_api_key_with_prefix("BearerToken", "authorization")

    return Cluster(configuration.host.rstrip("/"), namespace or found or "default", flags, http, token)


def _configure(configuration: Configuration, context: str | None) -> str | None:
    """Fill in server and credentials; returns the namespace that goes with them, if any."""
    files = os.environ.get("KUBECONFIG") or os.path.expanduser("~/.kube/config")
    if any(os.path.exists(file) for file in files.split(os.pathsep)):
        contexts, current = list_kube_config_contexts(files)
        named = {entry["name"]: entry["context"] for entry in contexts}
        if context is not None and context not in named:
            listed = f"there are {', '.join(named)}" if named else "there are none"
            raise ConfigException(f"no context {context!r}; {listed}{did_you_mean(context, named)}")
        load_kube_config(files, context=context, client_configuration=configuration)
        namespace = named[context or current["name"]].get("namespace")
        return str(namespace) if namespace else None
    if context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
        load_incluster_config(client_configuration=configuration)
        with open("/var/run/secrets/kubernetes.io/serviceaccount/namespace") as file:
            return file.read().strip()
    raise ConfigException(
        f"no kubeconfig at {files}; name one with KUBECONFIG, or have your provider's command write it, such as "
        "aws eks update-kubeconfig, gcloud container clusters get-credentials, az aks get-credentials"
    )
