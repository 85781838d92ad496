"""draft-fossati-seat-early-attestation: remoteAttestation of revision -06, and the binders of both."""

from cryptography.hazmat.primitives.asymmetric import ec

import evidence
from evidence import Refused, spki_of
from tls13 import Reader, vec

ATTESTATION, REMOTE_ATTESTATION = 0xFFA0, 0xFFA5
EVIDENCE_REQUEST = 0xFFA1

UNSUPPORTED_SCHEMES, REQUIRED, FAILED = 224, 225, 226

UNKNOWN = b"\0\1" + vec(2, b"application/x-unknown")


def scheme(p, who, my_type, verifiers):
    """Mechanism 0 is evidence of a type, 1 a result of a verifier."""
    return b"\1" + verifiers(p) if p.results else b"\0" + my_type(p, who)


def offer(p, my_type, verifiers):
    """remoteAttestation in ClientHello: the schemes of the server, those of the client."""
    if p.wrong == "early-no-offer":
        return []
    lists = {who: scheme(p, who, my_type, verifiers) if p.presents(who) else b"" for who in ("server", "client")}
    if p.wrong == "early-no-common-scheme":
        lists = {"server": b"", "client": UNKNOWN}
    if p.wrong == "early-no-common-direction":
        lists["server"] = UNKNOWN
    if p.wrong == "early-unknown-mechanism":
        lists["server"] = b"\7" + lists["server"][1:]
    body = vec(2, lists["server"]) + vec(2, lists["client"])
    return [(REMOTE_ATTESTATION, body + b"\0" if p.wrong == "early-trailing-byte" else body)]


def check_choice(p, ext, who, my_type, verifiers):
    """remoteAttestation in EncryptedExtensions is about the server, in CertificateRequest about the client."""
    if not p.presents(who):
        if REMOTE_ATTESTATION in ext:
            raise Refused("a choice where nothing was offered", 47)
    elif REMOTE_ATTESTATION not in ext:
        raise Refused("the server leaves out how the %s attests" % who, REQUIRED)
    elif ext[REMOTE_ATTESTATION] != scheme(p, who, my_type, verifiers):
        raise Refused("chose something else", 47)


def choose(p, ext, my_type, verifiers):
    """Returns the extensions of EncryptedExtensions and those of CertificateRequest."""
    if REMOTE_ATTESTATION not in ext:
        raise Refused("ClientHello does not offer to attest", REQUIRED)
    r = Reader(ext[REMOTE_ATTESTATION])
    lists = {"server": r.vec(2), "client": r.vec(2)}
    if r.b:
        raise Refused("bytes behind the schemes", 50)
    out = []
    for who in ("server", "client"):
        what = scheme(p, who, my_type, verifiers)
        if p.presents(who) and what not in lists[who]:
            raise Refused("nothing in common", UNSUPPORTED_SCHEMES)
        if p.wrong == "early-unoffered-scheme":
            what = UNKNOWN
        if p.wrong == "early-trailing-byte":
            what += b"\0"
        typ = EVIDENCE_REQUEST if p.wrong == "early-other-form" else REMOTE_ATTESTATION
        out.append([(typ, what)] if p.presents(who) else [])
    return out


def carry(p, cmw):
    """The extension of the first CertificateEntry."""
    return REMOTE_ATTESTATION if p.early == 6 else ATTESTATION, vec(3, cmw)


def carried(p, ext):
    data = ext.pop(REMOTE_ATTESTATION if p.early == 6 else ATTESTATION, None)
    if data is None:
        if p.presents(p.other()):
            raise Refused("there is no evidence", REQUIRED if p.early == 6 else 40)
        return None
    r = Reader(data)
    cmw = r.vec(3)
    if r.b or not cmw:
        raise Refused("the payload does not parse", 50)
    return cmw


def present(c, p, spki):
    """Evidence of this end over the key of its certificate."""
    if p.wrong == "early-wrong-key":
        spki = spki_of(ec.generate_private_key(ec.SECP256R1()).public_key())
    if p.wrong == "early-first-hello-binder":
        whole, c.hello_transcript = c.hello_transcript, c.transcript[0]
    binder = c.early_binder(p.early, p.role, spki)
    if p.wrong == "early-first-hello-binder":
        c.hello_transcript = whole
    if p.wrong == "early-wrong-binder":
        binder = bytes([binder[0] ^ 1]) + binder[1:]
    data = evidence.hardened(p.role, binder, spki) if p.wrong == "early-other-rule" else binder.ljust(64, b"\0")
    if p.own:
        return evidence.make_own(data)
    cmw = evidence.make_report(data, "tdx-unknown" if p.wrong == "early-wrong-measurement" else "tdx")
    if p.wrong == "early-malformed":
        return b"\xff" + cmw
    if p.wrong == "early-bad-signature":
        at = cmw.index(data) - 8  # a bit of RTMR3, far from all lengths
        return cmw[:at] + bytes([cmw[at] ^ 1]) + cmw[at + 1:]
    return cmw


def verify(c, p, who, cmw, spki):
    """Verifies evidence against the binder of what went by."""
    binder = c.early_binder(3 if p.misreads else p.early, who, spki)
    try:
        evidence.verify_bound(cmw, binder.ljust(64, b"\0"))
    except Refused as e:
        raise Refused(str(e), FAILED if p.early == 6 else e.alert)
