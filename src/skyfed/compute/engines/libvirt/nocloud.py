"""The context disk: cloud-init's NoCloud source, an ISO 9660 image with the label `cidata` (compute digest 3.2)."""

import io
import json
import re

import pycdlib

from skyfed.compute.contract import engine_error
from skyfed.compute.model import MAX_SSH_KEY, MAX_SSH_KEYS, MAX_USER_DATA, Context
from skyfed.core.text import shown

LABEL = "cidata"
# RFC 1123: labels of letters, digits and inner hyphens
_HOSTNAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
# busybox and old kernels overlook small images: genisoimage adds 150 sectors, so do we
_LEAST_BYTES = 366 * 1024


def context_disk(instance_id: str, context: Context) -> bytes:
    """The disk's bytes. Raises Invalid for a key, name or user data that could not be delivered as it is."""
    files = {
        "meta-data": meta_data(instance_id, context),
        # cloud-init takes the disk for NoCloud only if both files are there, empty or not
        "user-data": _user_data(context),
    }
    image = pycdlib.PyCdlib()
    image.new(joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    for name, content in files.items():
        iso_name = "/" + name.replace("-", "").upper() + ".;1"
        image.add_fp(io.BytesIO(content), len(content), iso_name, rr_name=name, joliet_path=f"/{name}")
    out = io.BytesIO()
    image.write_fp(out)
    image.close()
    data = out.getvalue()
    return data + b"\0" * max(0, _LEAST_BYTES - len(data))


def meta_data(instance_id: str, context: Context) -> bytes:
    """YAML whose strings are written as JSON (which YAML 1.2 contains), so that nothing in them can end them."""
    hostname = context.hostname or f"vm-{instance_id[:8]}"
    if not _HOSTNAME.fullmatch(hostname):
        raise engine_error("invalid", f"{shown(hostname)} is no host name (RFC 1123: letters, digits, hyphens)")
    if len(context.ssh_keys) > MAX_SSH_KEYS:
        raise engine_error("invalid", f"{len(context.ssh_keys)} SSH keys are too many; {MAX_SSH_KEYS} are the limit")
    lines = [f"instance-id: {json.dumps(instance_id)}", f"local-hostname: {json.dumps(hostname)}"]
    if context.ssh_keys:
        lines.append("public-keys:")
        lines += [f"  - {json.dumps(_ssh_key(key))}" for key in context.ssh_keys]
    return ("\n".join(lines) + "\n").encode()


def _ssh_key(key: str) -> str:
    if len(key) > MAX_SSH_KEY or not key.isascii() or not key.isprintable() or len(key.split()) < 2:
        raise engine_error("invalid", f"{shown(key)} is no SSH public key on one line of ASCII (type, base64, comment)")
    return key


def _user_data(context: Context) -> bytes:
    if len(context.user_data) > MAX_USER_DATA:
        raise engine_error("invalid", f"{len(context.user_data)} bytes of user data; {MAX_USER_DATA} are the limit")
    return context.user_data
