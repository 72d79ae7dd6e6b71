"""Checks of what a user asks for. Everything here is hostile until it has passed."""

import re

from skyfed.compute.model import MAX_SSH_KEY, MAX_SSH_KEYS, MAX_USER_DATA, Context, VmRequest
from skyfed.core.errors import Invalid, TooLarge
from skyfed.core.text import shown

MAX_TITLE = 255
MAX_TOKEN = 255
# RFC 1123 2.1: labels of letters, digits and inner hyphens; 253 octets in all.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOSTNAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_TOKEN = re.compile(r"[!-~]{1,255}")
# `type base64 comment`: one line of printable ASCII (compute digest 3.2: a newline would inject a second
# key).
_SSH_KEY = re.compile(
    r"(?:ssh-(?:rsa|dss|ed25519)|ecdsa-sha2-nistp(?:256|384|521)|sk-ssh-ed25519@openssh\.com"
    r"|sk-ecdsa-sha2-nistp256@openssh\.com) [A-Za-z0-9+/]+={0,3}(?: [ -~]*)?"
)
_NOT_IN_LABELS = re.compile(r"[^A-Za-z0-9]+")


def check(request: VmRequest) -> VmRequest:
    """`request` with surrounding blanks of keys removed. Raises Invalid or TooLarge, naming what would be
    right."""
    if len(request.title) > MAX_TITLE or not (request.title == "" or request.title.isprintable()):
        raise Invalid(
            f"title {shown(request.title)} must be one line of at most {MAX_TITLE} characters", code="bad_title"
        )
    check_hostname(request.hostname)
    check_hostname(request.context.hostname)
    if request.token is not None and not _TOKEN.fullmatch(request.token):
        raise Invalid(f"idempotency token must be 1 to {MAX_TOKEN} printable ASCII characters", code="bad_token")
    context = request.context
    if len(context.user_data) > MAX_USER_DATA:
        raise TooLarge(
            f"user data has {len(context.user_data)} bytes; at most {MAX_USER_DATA} are possible", code="user_data"
        )
    if len(context.ssh_keys) > MAX_SSH_KEYS:
        raise TooLarge(f"{len(context.ssh_keys)} SSH keys; at most {MAX_SSH_KEYS} are possible", code="ssh_keys")
    keys = tuple(_key(key) for key in context.ssh_keys)
    clean = Context(ssh_keys=keys, user_data=context.user_data, hostname=context.hostname)
    return VmRequest(
        os_tpl=request.os_tpl,
        flavour=request.flavour,
        title=request.title,
        hostname=request.hostname,
        context=clean,
        token=request.token,
    )


def check_hostname(name: str) -> None:
    """Raises Invalid unless empty or a host name."""
    if name and (len(name) > 253 or not _HOSTNAME.fullmatch(name)):
        raise Invalid(
            f"host name {shown(name)} must be labels of letters, digits and inner hyphens, separated by dots",
            code="bad_hostname",
        )


def hostname(request: VmRequest, vm_id: str) -> str:
    """The guest's name: as asked for, else the title made into one, else from the UUID."""
    if request.hostname or request.context.hostname:
        return request.hostname or request.context.hostname
    label = _NOT_IN_LABELS.sub("-", request.title.encode("ascii", "ignore").decode()).strip("-")
    return label[:63].strip("-").lower() or f"vm-{vm_id[:8]}"


def _key(key: str) -> str:
    line = key.strip()
    if len(line) > MAX_SSH_KEY:
        raise TooLarge(f"SSH key has {len(line)} characters; at most {MAX_SSH_KEY} are possible", code="ssh_key")
    if not _SSH_KEY.fullmatch(line):
        raise Invalid(
            f"SSH key {shown(line, 40)} is not one OpenSSH public key line (ssh-ed25519 AAAA… comment)",
            code="bad_ssh_key",
        )
    return line
