'use strict';
// The fork's verifier for evidence of the peer's own making, by exec:. See ../CONTRACT.md.

const crypto = require('crypto');
const fs = require('fs');
const { OWN, decode } = require('./evidence');

function verdict() {
  const request = JSON.parse(fs.readFileSync(0));
  const refuse = (kind, reason) => ({ ok: false, class: kind, reason });
  let type, value;
  try {
    [type, value] = decode(Buffer.from(request.cmw, 'base64'));
  } catch (e) {
    return refuse('malformed', e.message);
  }
  if (type !== OWN) return refuse('malformed', 'not evidence of this type');
  const key = crypto.createPublicKey(fs.readFileSync(process.argv[2] + '/peer-tee.key'));
  if (!crypto.verify('sha256', value.subarray(0, 64), key, value.subarray(64))) return refuse('signature', 'it is not signed by the key of this TEE');
  if (!value.subarray(0, 64).equals(Buffer.from(request.report_data, 'base64'))) return refuse('binding', 'report data is of another session, key or role');
  return { ok: true };
}

console.log(JSON.stringify(verdict()));
