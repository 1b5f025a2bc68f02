#!/bin/sh
# Says which of the clients that the tests need are missing, and how to get them. Exit 1 if any is.
missing=0
need() {
	echo "make e2e needs $1" >&2
	missing=1
}
command -v "${CLAUDE:-claude}" >/dev/null ||
	need 'Claude Code as `claude` in PATH or in $CLAUDE: npm install -g @anthropic-ai/claude-code'
"${NODE:-node}" -e "require('@anthropic-ai/sdk')" 2>/dev/null ||
	need 'Node.js and its SDK, by NODE_PATH if it is not global: npm install @anthropic-ai/sdk'
"${PYTHON:-python3}" -c 'import anthropic' 2>/dev/null ||
	need 'Python 3 and its SDK: pip install anthropic'
unshare -rn ip link set lo up 2>/dev/null ||
	need 'Linux with `unshare` (util-linux) and `ip` (iproute2), and user namespaces that are allowed'
exit $missing
