package softtee

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"io"
	"math/big"
)

const rsaExponent = 65537

// primeOffsets are how far each prime of the default seed's keys is from where the
// search for it begins. To search takes seconds, and would be done by every
// program that verifies a software TEE; the test of this table searches.
var primeOffsets = map[string]int64{
	"ARK-Milan p": 5632, "ARK-Milan q": 4124,
	"SEV-Milan p": 1488, "SEV-Milan q": 1268,
	"SEV-VLEK-Milan p": 886, "SEV-VLEK-Milan q": 1220,
}

// deriveRSA returns the RSA key of that seed and name. Both primes have their two
// highest bits set.
func deriveRSA(seed, name string, bits int) *rsa.PrivateKey {
	p, q := derivePrime(seed, name+" p", bits/2), derivePrime(seed, name+" q", bits/2)
	one := big.NewInt(1)
	phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
	k := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: rsaExponent},
		D:         new(big.Int).ModInverse(big.NewInt(rsaExponent), phi),
		Primes:    []*big.Int{p, q},
	}
	k.Precompute()
	if err := k.Validate(); err != nil {
		panic("softtee: " + err.Error())
	}
	return k
}

func derivePrime(seed, name string, bits int) *big.Int {
	p := primeStart(seed, name, bits)
	if offset, ok := primeOffsets[name]; ok && seed == "" {
		return p.Add(p, big.NewInt(offset))
	}
	return nextPrime(p)
}

// primeStart returns the odd number at which the search for a prime begins.
func primeStart(seed, name string, bits int) *big.Int {
	d := derive(seed, "prime "+name)
	var b []byte
	for i := uint32(0); len(b) < bits/8; i++ {
		h := sha256.Sum256(binary.BigEndian.AppendUint32(d[:], i))
		b = append(b, h[:]...)
	}
	b = b[:bits/8]
	b[0] |= 0xc0
	b[len(b)-1] |= 1
	return new(big.Int).SetBytes(b)
}

// nextPrime returns the first prime from start on that the exponent goes with.
func nextPrime(start *big.Int) *big.Int {
	p := new(big.Int).Set(start)
	one, two, e := big.NewInt(1), big.NewInt(2), big.NewInt(rsaExponent)
	for ; ; p.Add(p, two) {
		if p.ProbablyPrime(0) && new(big.Int).GCD(nil, nil, e, new(big.Int).Sub(p, one)).Cmp(one) == 0 {
			return p
		}
	}
}

// A pssSigner signs as AMD's authorities do, with a salt that follows from what is
// signed, so that the same certificate has the same bytes each time.
type pssSigner struct{ key *rsa.PrivateKey }

func (s pssSigner) Public() crypto.PublicKey { return &s.key.PublicKey }

func (s pssSigner) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	salt := sha512.Sum512(append([]byte(derivation+"salt "), digest...))
	return s.key.Sign(bytes.NewReader(salt[:]), digest, opts)
}
