'use strict';
// One end of a case, on Node's tls. The contract is in ../CONTRACT.md.

const fs = require('fs');

const SUITES = { aes128: 'TLS_AES_128_GCM_SHA256', aes256: 'TLS_AES_256_GCM_SHA384', chacha20: 'TLS_CHACHA20_POLY1305_SHA256' };
const GROUPS = { x25519: 'X25519', p256: 'P-256', p384: 'P-384', p521: 'P-521' };
const KEYS = ['p384', 'rsa', 'ed25519', 'large'];
const WHO = { server: ['server'], client: ['client'], both: ['server', 'client'] };

// choose returns what a case asks for, or nothing.
function choose(id, role) {
  const plan = { role, attests: [], cert: '' };
  const [first, second, third, ...rest] = id.split('.');
  if (rest.length) return undefined;
  if (id === 'base' || id === 'base.ask') return plan;
  if (id === 'refuse.no-evidence') return { ...plan, fails: true };
  if (id === 'base.client-cert') return { ...plan, clientCert: true };
  if (id === 'base.hrr') return { ...plan, group: role === 'server' ? 'P-256' : 'X448:P-256' };
  if (first === 'base' && second === 'suite' && SUITES[third]) return { ...plan, suite: SUITES[third] };
  if (first === 'base' && second === 'group' && GROUPS[third]) return { ...plan, group: GROUPS[third] };
  if (first === 'base' && second === 'cert' && KEYS.includes(third)) return { ...plan, cert: '-' + third };
  if (first !== 'expat' || !WHO[second]) return undefined;
  const attests = WHO[second];
  if (third === 'own' && !attests.includes(role)) return undefined;
  if (third && third !== 'own' && third !== 'aes256') return undefined;
  return {
    ...plan, attests, own: third === 'own', suite: third === 'aes256' ? SUITES.aes256 : undefined,
    // atls serve that has its clients attest wants their certificates in the handshake as well.
    clientCert: role === 'client' && attests.includes('client'),
  };
}

const plan = choose(process.env.ATLS_INTEROP_CASE, process.env.ATLS_INTEROP_ROLE);
if (!plan) process.exit(127);

const tls = require('tls');
const { certs } = require('./evidence');
const { Exchange } = require('./expat');

// A Stream reads as many bytes as are asked for.
class Stream {
  constructor(socket) {
    this.socket = socket;
    this.data = Buffer.alloc(0);
    this.ended = false;
    const wake = () => { if (this.wake) this.wake(); };
    socket.on('data', (b) => { this.data = Buffer.concat([this.data, b]); wake(); });
    socket.on('end', () => { this.ended = true; wake(); });
    socket.on('close', () => { this.ended = true; wake(); });
  }

  more() { return new Promise((resolve) => { this.wake = resolve; }); }
  write(b) { this.socket.write(b); }

  async read(n) {
    while (this.data.length < n) {
      if (this.ended) throw new Error('the other end closed');
      await this.more();
    }
    const out = this.data.subarray(0, n);
    this.data = this.data.subarray(n);
    return out;
  }

  async echo() {
    for (;;) {
      if (this.data.length) this.write(await this.read(this.data.length));
      else if (this.ended) return;
      else await this.more();
    }
  }
}

function keylog(line) { fs.appendFileSync(process.env.ATLS_INTEROP_LOGS + '/keys.log', line); }

async function talk(socket) {
  const stream = new Stream(socket);
  if (plan.attests.length) await new Exchange(stream, plan).run();
  if (plan.role === 'server') {
    await stream.echo();
  } else {
    const line = Buffer.from('hello from Node\n');
    stream.write(line);
    if (!(await stream.read(line.length)).equals(line)) throw new Error('the echo is something else');
  }
  socket.end();
}

function done(status, why) {
  if (why) console.error(why);
  process.exitCode = status;
  setTimeout(() => process.exit(status), 200).unref();
}

function start() {
  const [host, port] = process.env.ATLS_INTEROP_ADDRESS.split(':');
  const pair = (name) => ({ cert: fs.readFileSync(certs(name + '.pem')), key: fs.readFileSync(certs(name + '.key')) });
  const options = { minVersion: 'TLSv1.3', ca: fs.readFileSync(certs('ca.pem')), ciphers: plan.suite, ecdhCurve: plan.group };
  const secured = (socket, close) => {
    socket.setTimeout(10000, () => socket.destroy(new Error('nothing happens')));
    socket.on('error', (e) => done(1, e));
    if (plan.fails) return done(1, 'the handshake succeeded');
    return talk(socket).then(() => done(0), (e) => { done(1, e); socket.destroy(); }).finally(close);
  };
  const failed = (e) => done(plan.fails ? 0 : 1, e.message);
  if (plan.role === 'client') {
    const socket = tls.connect({ ...options, ...(plan.clientCert ? pair('client') : {}), host, port: Number(port), servername: 'localhost' });
    socket.on('keylog', keylog);
    socket.once('error', failed);
    socket.once('secureConnect', () => secured(socket, () => {}));
    return;
  }
  const server = tls.createServer({ ...options, ...pair('server' + plan.cert), requestCert: plan.clientCert, rejectUnauthorized: true });
  server.on('keylog', keylog);
  server.on('tlsClientError', (e) => { failed(e); server.close(); });
  server.on('secureConnection', (socket) => secured(socket, () => server.close()));
  server.listen(Number(port), host);
}

start();
