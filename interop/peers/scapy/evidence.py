"""Evidence and results: made, and verified without any code of the fork."""

import base64
import hashlib
import json
import os
import socket
import struct
import time
from datetime import timezone

import cbor2
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils

TSM = "application/vnd.veraison.tsm-report+cbor"
OWN = "application/vnd.atls.interop-own"
KAT = "tag:ietf.org,2024-02-29:rats/kat"
BUNDLE = 'application/cmw+cbor; cmwc_t="%s"' % KAT
VERIFIER = "https://softtee.invalid/insecure-verifier"

SHA256 = ec.ECDSA(hashes.SHA256())


class Refused(Exception):
    """The evidence is not acceptable; alert says how to say so."""

    def __init__(self, why, alert=42):
        super().__init__(why)
        self.alert = alert


def spki_of(key):
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def hardened(role, binder, spki):
    """REPORTDATA under the hardened rule."""
    return hashlib.sha512(b"atls hardened v1\0" + {"client": b"\1", "server": b"\2"}[role] + binder + hashlib.sha256(spki).digest()).digest()


def report_data(p, role, binder, spki):
    return binder.ljust(64, b"\0") if p.draft08 or p.early else hardened(role, binder, spki)


def certs(name):
    return os.path.join(os.environ["ATLS_INTEROP_CERTS"], name)


def load_key(name):
    with open(certs(name), "rb") as f:
        return serialization.load_pem_private_key(f.read(), None)


def quote(data, kind="tdx"):
    """Has the hardware sign 64 bytes."""
    host, port = os.environ["ATLS_INTEROP_TEE"].rsplit(":", 1)
    with socket.create_connection((host, int(port)), 10) as s:
        s.sendall(("%s %s\n" % (kind, data.hex())).encode())
        answer = s.makefile().readline().strip()
    if answer.startswith("error"):
        raise RuntimeError(answer)
    return [base64.b64decode(part) for part in answer.split()]


# Making.

def tsm_record(data, kind="tdx"):
    provider = "sev_guest" if kind == "snp" else "tdx_guest"
    report = dict(zip(("outblob", "auxblob"), quote(data, kind)), provider=provider)
    return [TSM, cbor2.dumps(report, canonical=True), 4]


def make_report(data, kind="tdx"):
    return cbor2.dumps(tsm_record(data, kind), canonical=True)


def make_own(data):
    return cbor2.dumps([OWN, data + load_key("peer-tee.key").sign(data, SHA256), 4], canonical=True)


def cose_key(public):
    n = public.public_numbers()
    return {1: 2, -1: 1, -2: n.x.to_bytes(32, "big"), -3: n.y.to_bytes(32, "big")}


def about_key(p, kak_pub, challenge):
    """What the quote of a bundle covers: the key, and under the hardened rule the session."""
    mark = b"" if p.draft08 else hashlib.sha256(b"atls quote freshness v1\0\1" + challenge).digest()
    return hashlib.sha256(cbor2.dumps(kak_pub, canonical=True)).digest() + mark.ljust(32, b"\0")


def make_bundle(p, challenge, tik):
    """A key attestation token by a key that the platform's quote covers."""
    kak = ec.generate_private_key(ec.SECP256R1())
    kak_pub = cose_key(kak.public_key())
    vouched = cose_key(ec.generate_private_key(ec.SECP256R1()).public_key()) if p.wrong == "token-unvouched-key" else kak_pub
    protected = cbor2.dumps({1: -7}, canonical=True)
    claims = cbor2.dumps({10: challenge, 8: {1: cose_key(tik)}, 2500: kak_pub}, canonical=True)
    r, s = utils.decode_dss_signature(kak.sign(cbor2.dumps(["Signature1", protected, b"", claims], canonical=True), SHA256))
    kat = cbor2.dumps([protected, {}, claims, r.to_bytes(32, "big") + s.to_bytes(32, "big")], canonical=True)
    pat = tsm_record(about_key(p, vouched, challenge))
    return cbor2.dumps({"kat": ["application/eat+cwt", kat], "pat": pat, "__cmwc_t": KAT}, canonical=True)


def make_result(who, spoil=False):
    with open(certs(who + "-results.json")) as f:
        held = json.load(f)["results"][0]
    if spoil:
        held["result"] = held["result"][:-8] + ("AAAAAAAA" if held["result"][-8:] != "AAAAAAAA" else "BBBBBBBB")
    claims = json.loads(unbase64url(held["result"].split(".")[1]))
    return cbor2.dumps(['application/eat+jwt; eat_profile="%s"' % claims["eat_profile"], held["result"].encode(), 8], canonical=True)


# Verifying.

def unbase64url(s):
    return base64.urlsafe_b64decode(s + "=" * (-len(s) % 4))


def p256(xy):
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\4" + xy)


def verify_raw(key, data, signature):
    """An ECDSA signature r || s over SHA-256."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(utils.encode_dss_signature(r, s), data, SHA256)
    except InvalidSignature:
        raise Refused("a signature does not verify")


def verify_quote(b):
    """Checks a TDX quote of version 4 up to the root, and returns its REPORTDATA."""
    try:
        version, key_type, tee = struct.unpack_from("<HHI", b)
        if (version, key_type, tee) != (4, 2, 0x81):
            raise Refused("not a TDX quote of version 4")
        signed, at = b[:632], 636
        signature, key = b[at:at + 64], b[at + 64:at + 128]
        report, report_sig = b[at + 134:at + 518], b[at + 518:at + 582]
        (n,) = struct.unpack_from("<H", b, at + 582)
        auth, chain = b[at + 584:at + 584 + n], b[at + 584 + n + 6:]
    except struct.error:
        raise Refused("the quote is cut off", 50)
    verify_raw(p256(key), signed, signature)
    if report[320:352] != hashlib.sha256(key + auth).digest():
        raise Refused("the enclave does not vouch for the attestation key")
    leaf, *rest = [x509.load_pem_x509_certificate(c + b"-----END CERTIFICATE-----") for c in chain.split(b"-----END CERTIFICATE-----")[:-1]]
    verify_raw(leaf.public_key(), report, report_sig)
    with open(certs("tdx-root.pem"), "rb") as f:
        root = x509.load_pem_x509_certificate(f.read())
    if not rest or spki_of(rest[-1].public_key()) != spki_of(root.public_key()):
        raise Refused("the chain does not end in the root")
    for child, parent in zip([leaf] + rest, rest + [root]):
        verify_certificate(child, parent)
    return signed[568:632]


def verify_snp(report, table):
    """Checks a report of SEV-SNP by the certificates beside it, and returns its REPORTDATA."""
    certificates, at = [], 0
    while table[at:at + 16].strip(b"\0"):  # GUID, offset, length; ends with zeros
        offset, length = struct.unpack_from("<II", table, at + 16)
        certificates.append(x509.load_der_x509_certificate(table[offset:offset + length]))
        at += 24
    with open(certs("snp-root.pem"), "rb") as f:
        root = x509.load_pem_x509_certificate(f.read())
    vcek = [c for c in certificates if isinstance(c.public_key(), ec.EllipticCurvePublicKey)]
    ask = [c for c in certificates if c.issuer == root.subject and c.subject != root.subject]
    if len(vcek) != 1 or len(ask) != 1:
        raise Refused("the report does not come with its certificates")
    for child, parent in ((vcek[0], ask[0]), (ask[0], root)):
        try:
            parent.public_key().verify(child.signature, child.tbs_certificate_bytes, padding.PSS(padding.MGF1(hashes.SHA384()), 48), hashes.SHA384())
        except InvalidSignature:
            raise Refused("the signature of a certificate does not verify")
    r, s = (int.from_bytes(report[i:i + 72], "little") for i in (0x2A0, 0x2E8))
    try:
        vcek[0].public_key().verify(utils.encode_dss_signature(r, s), report[:0x2A0], ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise Refused("the signature of the report does not verify")
    return report[0x50:0x90]


def verify_certificate(child, parent):
    try:
        parent.public_key().verify(child.signature, child.tbs_certificate_bytes, ec.ECDSA(child.signature_hash_algorithm))
    except InvalidSignature:
        raise Refused("the signature of a certificate does not verify")
    begin, end = (t.replace(tzinfo=timezone.utc).timestamp() for t in (child.not_valid_before, child.not_valid_after))
    if not begin <= time.time() <= end:
        raise Refused("a certificate is not valid now")


def verify_tsm(record):
    if not isinstance(record, list) or len(record) not in (2, 3) or record[0] != TSM or (len(record) == 3 and not record[2] & 4):
        raise Refused("not a TSM report in a CMW record", 50)
    report = cbor2.loads(record[1])
    if report.get("provider") == "sev_guest":
        return verify_snp(report["outblob"], report["auxblob"])
    if report.get("provider") != "tdx_guest":
        raise Refused("the provider is neither tdx_guest nor sev_guest")
    return verify_quote(report["outblob"])


def verify_evidence(p, role, evidence, challenge, binder, spki):
    """Checks evidence of an end, and returns the key that it names in attestation-only."""
    try:
        w = cbor2.loads(evidence)
    except Exception as e:
        raise Refused("not CBOR: %s" % e, 50)
    if not p.only:
        if verify_tsm(w) != report_data(p, role, binder, spki):
            raise Refused("report data is of another session, key or role")
        return None
    if not isinstance(w, dict) or set(w) != {"kat", "pat", "__cmwc_t"} or w["__cmwc_t"] != KAT:
        raise Refused("not a bundle of KAT and PAT", 50)
    protected, _, claims, signature = cbor2.loads(w["kat"][1])
    c = cbor2.loads(claims)
    kak = c[2500]
    verify_raw(p256(kak[-2] + kak[-3]), cbor2.dumps(["Signature1", protected, b"", claims], canonical=True), signature)
    if verify_tsm(w["pat"]) != about_key(p, kak, challenge):
        raise Refused("the platform does not vouch for the key of the token")
    if c[10] != challenge:
        raise Refused("the token is of another session")
    return p256(c[8][1][-2] + c[8][1][-3])


def verify_bound(evidence, want):
    """Checks evidence that has to carry this report data."""
    try:
        w = cbor2.loads(evidence)
    except Exception as e:
        raise Refused("not CBOR: %s" % e, 50)
    if verify_tsm(w) != want:
        raise Refused("report data is of another connection, request or key")


def verify_result(p, evidence, spki):
    """Checks an EAR, and returns the key that it names."""
    w = cbor2.loads(evidence)
    if not isinstance(w, list) or len(w) != 3 or not w[0].startswith("application/eat+jwt") or not w[2] & 8:
        raise Refused("not an EAR in a CMW record", 50)
    head, claims, signature = w[1].decode().split(".")
    with open(certs("verifier.pem"), "rb") as f:
        verify_raw(serialization.load_pem_public_key(f.read()), (head + "." + claims).encode(), unbase64url(signature))
    c = json.loads(unbase64url(claims))
    if json.loads(unbase64url(head)).get("alg") != "ES256" or c["exp"] < time.time():
        raise Refused("the result has expired")
    (appraisal,) = c["submods"].values()
    if appraisal["ear.status"] != "affirming":
        raise Refused("the result is not affirming", 49)
    named = unbase64url(find(c, "akpub"))
    if spki is not None and not p.draft08 and named != spki:
        raise Refused("the result is about another key")
    return serialization.load_der_public_key(named)


def find(value, name):
    """The value of the first member of that name, at any depth."""
    if isinstance(value, dict):
        for k, v in value.items():
            if k == name:
                return v
            found = find(v, name)
            if found is not None:
                return found
    return None
