"""How repos of the hub, revisions and plain directories are written. No torch here."""

import re

REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
COMMIT = re.compile(r"[0-9a-f]{40}")
REVISION = re.compile(r"[A-Za-z0-9](?:[\w#+=,-]|[./](?![./]))*", re.ASCII)  # a branch, a tag or a commit
FILE = "file://"
EVAL_RESULTS = ".eval_results/robustctl.yaml"
"""The file of figures in the hub's own format."""
