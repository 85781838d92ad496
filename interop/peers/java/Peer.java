import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.ServerSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Arrays;
import java.util.Base64;
import java.util.Map;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SNIHostName;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLException;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;
import java.util.List;

/** One end of a case, on JSSE: plain, and refusal. The contract is in ../CONTRACT.md. */
public final class Peer {
    private static final int UNSUPPORTED = 127;
    private static final Map<String, String> SUITES = Map.of(
        "aes128", "TLS_AES_128_GCM_SHA256", "aes256", "TLS_AES_256_GCM_SHA384", "chacha20", "TLS_CHACHA20_POLY1305_SHA256");
    private static final Map<String, String> GROUPS = Map.of(
        "x25519", "x25519", "p256", "secp256r1", "p384", "secp384r1", "p521", "secp521r1");
    private static final List<String> KEYS = List.of("p384", "rsa", "ed25519", "large");

    private final boolean server;
    private String suite;
    private String groups;
    private String cert = "";
    private boolean clientCert;
    private boolean fails;

    private Peer(boolean server) {
        this.server = server;
    }

    /** Reads the case, and returns false if it is none of ours. */
    private boolean choose(String id) {
        String last = id.substring(id.lastIndexOf('.') + 1);
        switch (id) {
            case "base": case "base.ask":
                return true;
            case "refuse.no-evidence":
                fails = true;
                return true;
            case "base.client-cert":
                clientCert = true;
                return true;
            case "base.hrr": // as a client it sends a share of a group that Go does not know
                groups = server ? "secp256r1" : "x448,x25519";
                return true;
            default:
        }
        if (id.equals("base.suite." + last)) {
            suite = SUITES.get(last);
            return suite != null;
        }
        if (id.equals("base.group." + last)) {
            groups = GROUPS.get(last);
            return groups != null;
        }
        if (id.equals("base.cert." + last) && KEYS.contains(last)) {
            cert = "-" + last;
            return true;
        }
        return false;
    }

    private static Path certs(String name) {
        return Path.of(System.getenv("ATLS_INTEROP_CERTS"), name);
    }

    private static Certificate certificate(String name) throws Exception {
        try (var in = Files.newInputStream(certs(name + ".pem"))) {
            return CertificateFactory.getInstance("X.509").generateCertificate(in);
        }
    }

    private static PrivateKey key(String name, String algorithm) throws Exception {
        String pem = Files.readString(certs(name + ".key")).replaceAll("-----[^-]*-----|\\s", "");
        return KeyFactory.getInstance(algorithm).generatePrivate(new PKCS8EncodedKeySpec(Base64.getDecoder().decode(pem)));
    }

    private SSLContext context() throws Exception {
        KeyStore trusted = KeyStore.getInstance("PKCS12");
        trusted.load(null, null);
        trusted.setCertificateEntry("ca", certificate("ca"));
        TrustManagerFactory trust = TrustManagerFactory.getInstance("PKIX");
        trust.init(trusted);
        KeyStore own = KeyStore.getInstance("PKCS12");
        own.load(null, null);
        if (server || clientCert) {
            String name = server ? "server" + cert : "client";
            Certificate leaf = certificate(name);
            own.setKeyEntry("own", key(name, leaf.getPublicKey().getAlgorithm()), new char[0], new Certificate[] {leaf, certificate("ca")});
        }
        KeyManagerFactory keys = KeyManagerFactory.getInstance("PKIX");
        keys.init(own, new char[0]);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        return context;
    }

    private void run(String address) throws Exception {
        int colon = address.lastIndexOf(':');
        InetSocketAddress at = new InetSocketAddress(InetAddress.getByName(address.substring(0, colon)), Integer.parseInt(address.substring(colon + 1)));
        SSLContext context = context();
        SSLSocket socket;
        if (server) {
            try (ServerSocket listener = context.getServerSocketFactory().createServerSocket(at.getPort(), 1, at.getAddress())) {
                ((SSLServerSocket) listener).setNeedClientAuth(clientCert);
                socket = (SSLSocket) listener.accept();
            }
        } else {
            Socket raw = new Socket(at.getAddress(), at.getPort());
            socket = (SSLSocket) context.getSocketFactory().createSocket(raw, "localhost", at.getPort(), true);
        }
        try (socket) {
            socket.setSoTimeout(10_000);
            SSLParameters p = socket.getSSLParameters();
            p.setProtocols(new String[] {"TLSv1.3"});
            if (suite != null) {
                p.setCipherSuites(new String[] {suite});
            }
            if (!server) {
                p.setEndpointIdentificationAlgorithm("HTTPS");
                p.setServerNames(List.of(new SNIHostName("localhost")));
            } else {
                p.setNeedClientAuth(clientCert);
            }
            socket.setSSLParameters(p);
            socket.startHandshake();
            if (server) {
                socket.getInputStream().transferTo(socket.getOutputStream());
            } else {
                byte[] line = "hello from JSSE\n".getBytes("US-ASCII");
                socket.getOutputStream().write(line);
                if (!Arrays.equals(socket.getInputStream().readNBytes(line.length), line)) {
                    throw new IOException("the echo is something else");
                }
            }
        }
    }

    public static void main(String[] args) throws Exception {
        Peer peer = new Peer("server".equals(System.getenv("ATLS_INTEROP_ROLE")));
        if (!peer.choose(System.getenv("ATLS_INTEROP_CASE"))) {
            System.exit(UNSUPPORTED);
        }
        System.setProperty("jdk.tls.maxHandshakeMessageSize", "65536"); // it is 32 KB by default
        if (peer.groups != null) {
            System.setProperty("jdk.tls.namedGroups", peer.groups);
        }
        try {
            peer.run(System.getenv("ATLS_INTEROP_ADDRESS"));
        } catch (SSLException e) {
            System.out.println(e);
            System.exit(peer.fails ? 0 : 1);
        }
        System.exit(peer.fails ? 1 : 0);
    }
}
