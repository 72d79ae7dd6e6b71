"""The libvirt engine."""

import os

# Read by libvirt when it is imported: errors only. It writes each of its steps, and a warning a boot about
# arguments of ours that it does not know, to stderr otherwise; refusals reach us as exceptions anyway.
os.environ.setdefault("LIBVIRT_LOG_OUTPUTS", "4:stderr")
