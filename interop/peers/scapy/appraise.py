"""The fork's verifier for evidence of the peer's own making, by exec:. See ../CONTRACT.md."""

import base64
import json
import sys

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def refuse(kind, reason):
    print(json.dumps({"ok": False, "class": kind, "reason": reason}))
    sys.exit()


request = json.load(sys.stdin)
try:
    media_type, value, _ = cbor2.loads(base64.b64decode(request["cmw"]))
except Exception as e:
    refuse("malformed", str(e))
data, signature = value[:64], value[64:]
with open(sys.argv[1] + "/peer-tee.key", "rb") as f:
    key = serialization.load_pem_private_key(f.read(), None).public_key()
try:
    key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
except InvalidSignature:
    refuse("signature", "it is not signed by the key of this TEE")
if data != base64.b64decode(request["report_data"]):
    refuse("binding", "report data is of another session, key or role")
print(json.dumps({"ok": True, "claims": {"made_by": "scapy peer"}}))
