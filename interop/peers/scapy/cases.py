"""What a case asks of this peer. Imports nothing slow: most questions are answered by no."""

SUITES = {"aes128": 0x1301, "aes256": 0x1302, "chacha20": 0x1303}
GROUPS = {"x25519": 29, "p256": 23, "p384": 24, "p521": 25}

# The wrong moves, by role.
WRONG = {
    "server": {
        "unoffered-type", "selection-trailing-byte", "in-server-hello", "unasked-answer", "unasked-evidence", "no-evidence", "second-entry", "twice",
        "malformed", "wrong-binder", "first-hello-binder", "nonce-for-binder", "wrong-role", "wrong-key", "bad-signature", "wrong-measurement",
        "debug", "bad-certificate-verify", "proposal-without-request",
        "expat-other-context", "expat-wrong-key", "expat-wrong-measurement", "expat-malformed", "expat-no-evidence", "expat-bad-signature",
        "expat-bad-finished", "expat-refusal",
        "two-keys-bad-proof", "two-keys-no-proof", "two-keys-unasked", "result-other-key", "result-bad-signature", "token-other-session",
        "token-unvouched-key",
        "early-wrong-binder", "early-first-hello-binder", "early-other-rule", "early-wrong-key", "early-wrong-measurement", "early-bad-signature",
        "early-malformed", "early-no-evidence", "early-no-answer", "early-unoffered-scheme", "early-trailing-byte", "early-other-form",
    },
    "client": {
        "no-offer", "no-common-type", "request-no-common-type", "request-no-common-verifier", "short-nonce", "empty-list", "trailing-byte",
        "unknown-encoding", "new-nonce-after-hrr", "dropped-after-hrr", "no-evidence", "no-certificate", "unasked-evidence", "malformed",
        "wrong-binder", "wrong-role", "wrong-key", "bad-signature", "wrong-measurement", "expat-other-context", "expat-no-evidence",
        "two-keys-bad-proof", "result-other-key", "token-other-session",
        "early-no-offer", "early-no-common-scheme", "early-no-common-direction", "early-unknown-mechanism", "early-trailing-byte", "early-wrong-binder",
        "early-wrong-key", "early-no-evidence", "early-no-certificate",
    },
}


class Plan:
    """What to do: who attests how, and what to offer."""

    def __init__(self, role):
        self.role = role
        self.attests = set()      # who presents evidence or results
        self.results = False      # these are results
        self.handshake = True     # in the handshake
        self.exchange = False     # in exported authenticators after it
        self.only = False         # in place of a certificate
        self.draft08 = False
        self.early = None         # revision of draft-fossati-seat-early-attestation
        self.misreads = False     # as the relying party, expect the binder of another revision
        self.two_keys = False     # evidence covers another key than the certificate's, and both sign
        self.snp = False          # SEV-SNP, else TDX
        self.own = False          # this end's evidence is of its own making
        self.suite = self.group = None
        self.retry = False        # have a HelloRetryRequest
        self.cert = ""            # suffix of the server's certificate
        self.client_cert = False
        self.wrong = None         # the wrong move to make
        self.fails = False        # the handshake is not to succeed

    def presents(self, who):
        """Whether an end presents evidence or results in the handshake."""
        return self.handshake and who in self.attests

    def other(self):
        return "server" if self.role == "client" else "client"


def plan(case, role):
    """Returns the plan for a case, or None."""
    p = Plan(role)
    words = case.split(".")
    head, rest = words[0], words[1:]
    if case in ("base", "base.ask"):
        return p
    if case == "refuse.no-evidence":
        p.fails = True
        return p
    if case == "base.client-cert":
        p.client_cert = True
        return p
    if case == "base.hrr":
        p.retry = True
        return p
    if head == "base" and len(rest) == 2:
        if rest[0] == "suite" and rest[1] in SUITES:
            p.suite = SUITES[rest[1]]
            return p
        if rest[0] == "group" and rest[1] in GROUPS:
            p.group = GROUPS[rest[1]]
            return p
        if rest[0] == "cert" and rest[1] in ("p384", "rsa", "ed25519", "large"):
            p.cert = "-" + rest[1]
            return p
        return None
    if head in ("attest", "passport") and len(rest) >= 2:
        p.results = head == "passport"
        p.attests = {"server": {"server"}, "client": {"client"}, "both": {"server", "client"}}.get(rest.pop(0), set())
        kind = rest.pop(0)
        if not p.attests or kind not in ("x509", "only") or not rest:
            return None
        p.only = kind == "only"
        rule = rest.pop(0)
        if rule not in ("hardened", "draft08"):
            return None
        p.draft08 = rule == "draft08"
        for word in rest:
            if word == "hrr":
                p.retry = True
            elif word in SUITES:
                p.suite = SUITES[word]
            elif word == "own" and role in p.attests:
                p.own = True
            elif word == "snp" and not p.only:
                p.snp = True
            elif word == "mismatch" and role not in p.attests:
                p.fails = True
            else:
                return None
        return p
    if head in ("early", "early-03") and rest:
        p.early = 3 if head == "early-03" else 6
        p.attests = {"server": {"server"}, "client": {"client"}, "both": {"server", "client"}}.get(rest.pop(0), set())
        for word in rest:
            if word == "hrr":
                p.retry = True
            elif word in SUITES:
                p.suite = SUITES[word]
            elif word == "own" and role in p.attests:
                p.own = True
            elif word == "passport":
                p.results = True
            elif word == "misread" and role not in p.attests:
                p.misreads = p.fails = True
            else:
                return None
        return p if p.attests else None
    if head == "two-keys" and len(rest) == 1:
        p.attests = {"server": {"server"}, "client": {"client"}, "both": {"server", "client"}}.get(rest[0], set())
        p.two_keys = True
        return p if p.attests else None
    if head in ("expat", "combined") and rest:
        p.exchange, p.handshake = True, head == "combined"
        p.attests = {"server": {"server"}, "client": {"client"}, "both": {"server", "client"}}.get(rest.pop(0), set())
        for word in rest:
            if word in SUITES:
                p.suite = SUITES[word]
            elif word == "own" and role in p.attests:
                p.own = True
            else:
                return None
        p.client_cert = "client" in p.attests
        return p if p.attests else None
    if head == "wrong" and len(rest) == 2 and rest[0] == role and rest[1] in WRONG[role]:
        p.wrong = rest[1]
        p.fails = True
        # What this end presents: evidence, unless the move is about asking.
        p.attests = {role}
        if p.wrong in ("request-no-common-type", "short-nonce", "empty-list", "trailing-byte", "unknown-encoding", "new-nonce-after-hrr", "dropped-after-hrr"):
            p.attests = {"server"}
        if p.wrong == "request-no-common-verifier":
            p.attests, p.results = {"server"}, True
        if p.wrong in ("unasked-answer", "unasked-evidence", "proposal-without-request", "no-offer"):
            p.attests = set()
        p.retry = p.wrong.endswith("after-hrr")
        p.two_keys = p.wrong.startswith("two-keys-")
        p.only = p.wrong.startswith("token-")
        p.results = p.results or p.wrong.startswith("result-")
        if p.wrong.startswith("early-"):
            p.early = 6
            if p.wrong in ("early-no-offer", "early-no-answer"):
                p.attests = set()
            if p.wrong in ("early-no-common-direction", "early-unknown-mechanism") or role == "client" and p.wrong == "early-trailing-byte":
                p.attests = {"server"}
        if p.wrong.startswith("expat-"):
            p.exchange, p.handshake, p.client_cert = True, False, role == "client"
        return p
    return None
