// TLS 1.3 with both sides certified: contexts from an identity on disk, one stream without I/O, and reasons for refusals.
#pragma once

#include <openssl/ssl.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "reason.h"

namespace rpcmesh {

struct FreeOpenssl {
    void operator()(SSL_CTX * p) const { SSL_CTX_free(p); }
    void operator()(SSL * p) const { SSL_free(p); }
    void operator()(X509 * p) const { X509_free(p); }
    void operator()(X509_CRL * p) const { X509_CRL_free(p); }
    void operator()(BIO * p) const { BIO_free_all(p); }
};
template <typename T> using Openssl = std::unique_ptr<T, FreeOpenssl>;

// What key.pem, cert.pem, ca.pem and revoked.pem in one directory say. Never changed: a reload makes a new one.
struct Identity {
    Openssl<SSL_CTX>      context;
    std::string           uri;
    std::string           serial;
    std::string           not_after;
    long                  crl_number = 0;
    std::set<std::string> revoked;  // serials, lower-case hex
};

// `alpns` are what a server offers to choose from; empty for a client.
// On failure the result is empty and `error` is one line.
std::shared_ptr<const Identity> load_identity(const std::string & directory, bool server, const std::vector<std::string> & alpns, std::string & error);

// One TLS connection as bytes in and bytes out; the caller moves ciphertext.
class TlsStream {
public:
    // `alpn` is asked for by a client and ignored for a server.
    TlsStream(const Identity & identity, bool server, const std::string & alpn);

    enum class Step { done, wants_input, failed };
    Step handshake();

    // After a failed step or read.
    Reason reason() const { return reason_; }

    // Ciphertext from the network.
    void feed(const uint8_t * data, size_t size);

    // Decrypted bytes. 0: more ciphertext is needed; -1: the peer ended the stream in order, or it is broken (failed()).
    long read(uint8_t * data, size_t size);
    bool failed() const { return reason_ != Reason::none; }

    // Encrypts all of it. False if the stream is broken.
    bool write(const uint8_t * data, size_t size);
    // Says that nothing more will be written.
    void close_write();

    // Ciphertext for the network, valid until the next call; `sent` drops that many bytes from its front.
    size_t pending(const uint8_t ** data) const;
    void   sent(size_t size);

    std::string peer_uri() const;  // empty unless it has exactly one URI SAN
    std::string peer_serial() const;
    std::string alpn() const;
    const char * version() const { return SSL_get_version(ssl_.get()); }
    const char * cipher() const { return SSL_get_cipher_name(ssl_.get()); }

private:
    Reason classify(bool handshaking) const;
    Reason reason_of(int code) const;

    Openssl<SSL> ssl_;
    BIO *        in_;   // owned by ssl_
    BIO *        out_;  // owned by ssl_
    Reason       reason_ = Reason::none;
};

}  // namespace rpcmesh
