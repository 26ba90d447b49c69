"""What the API server refuses, in the words of every other message of Windlass: a reason, and what to do.

It answers with a Status: a code, a message, and for an object that is wrong a cause for each field.
https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/
"""

import json
import re
from typing import Any

from windlass.errors import WindlassError
from windlass.spec.problems import InvalidJob, Problem

INSTALL = "helm install windlass charts/windlass --namespace windlass --create-namespace"
_UNKNOWN_FIELD = re.compile(r"\.?(spec[\w.\[\]]*): field not declared in schema")


class Refused(WindlassError):
    """The API server answered with an error."""

    def __init__(self, reason: str, message: str, code: int) -> None:
        super().__init__(reason, message)
        self.code = code
        """HTTP status."""


def refusal(code: int, body: bytes, server: str) -> WindlassError:
    """The error that an answer with this HTTP status and body means."""
    status = _status(body)
    message = str(status.get("message") or body[:500].decode(errors="replace").strip())
    details = status.get("details") or {}
    problems = _problems(details.get("causes") or [], message)
    if code in (400, 422, 500) and problems:
        return InvalidJob(problems)
    if code == 401:
        return Refused("AccessDenied", f"{server} does not accept the kubeconfig's credentials; log in again", code)
    if code == 403:
        hint = "; ask whoever looks after the cluster for that right" if "cannot" in message else ""
        return Refused("AccessDenied", f"{message}{hint}", code)
    if code == 404 and not details.get("name"):
        return Refused(
            "ClusterUnavailable",
            f"the cluster at {server} knows no LLMTrainingJob; install Windlass there: {INSTALL}",
            code,
        )
    if code == 404 and details.get("kind") == "namespaces":
        name = details["name"]
        return Refused("JobNotFound", f"no namespace {name!r}; make it with kubectl create namespace {name}", code)
    if code == 404:
        return Refused("JobNotFound", message, code)
    if code == 429 or code >= 500:
        return Refused("ClusterUnavailable", f"the API server at {server} answers {code}: {message}; try again", code)
    return Refused("ConfigInvalid", message, code)


def _status(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _problems(causes: list[dict[str, str]], message: str) -> list[Problem]:
    """One for each field; a message of our own rules comes without the server's "Invalid value: object" before it."""
    found = [
        Problem(cause["field"], re.sub(r'^Invalid value: ("object"|\S+): ', "", cause.get("message", "")))
        for cause in causes
        if cause.get("field")
    ]
    advice = "the cluster's Windlass does not know this field; upgrade it there, or leave the field out"
    found += [Problem(field, advice) for field in _UNKNOWN_FIELD.findall(message)]
    return list(dict.fromkeys(found))
