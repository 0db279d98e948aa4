#include "tls.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

namespace rpcmesh {

namespace {

constexpr const char * CIPHERS = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
// The hybrid group is known from OpenSSL 3.5 on; a list with an unknown name is refused whole.
constexpr const char * GROUPS_HYBRID = "X25519MLKEM768:X25519:P-256";
constexpr const char * GROUPS        = "X25519:P-256";

struct VerifyReason {
    long   code;
    Reason reason;
};

constexpr VerifyReason verify_reasons[] = {
    { X509_V_ERR_CERT_HAS_EXPIRED, Reason::certificate_expired },
    { X509_V_ERR_CERT_NOT_YET_VALID, Reason::certificate_not_yet_valid },
    { X509_V_ERR_CERT_REVOKED, Reason::certificate_revoked },
    { X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, Reason::untrusted_ca },
    { X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, Reason::untrusted_ca },
    { X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE, Reason::untrusted_ca },
    { X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, Reason::untrusted_ca },
    { X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN, Reason::untrusted_ca },
    { X509_V_ERR_CERT_SIGNATURE_FAILURE, Reason::untrusted_ca },
    { X509_V_ERR_UNABLE_TO_GET_CRL, Reason::untrusted_ca },
};

struct ProtocolReason {
    int    code;
    Reason reason;
};

constexpr ProtocolReason protocol_reasons[] = {
    { SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE, Reason::no_certificate },
    { SSL_R_UNSUPPORTED_PROTOCOL, Reason::tls_version },
    { SSL_R_NO_PROTOCOLS_AVAILABLE, Reason::tls_version },
    { SSL_R_TLSV1_ALERT_PROTOCOL_VERSION, Reason::tls_version },
    { SSL_R_WRONG_VERSION_NUMBER, Reason::not_tls },
    { SSL_R_HTTP_REQUEST, Reason::not_tls },
    { SSL_R_HTTPS_PROXY_REQUEST, Reason::not_tls },
    { SSL_R_UNEXPECTED_MESSAGE, Reason::not_tls },
    { SSL_R_BAD_RECORD_TYPE, Reason::not_tls },
    { SSL_R_NO_APPLICATION_PROTOCOL, Reason::unknown_alpn },
    // Not every 3.0 has a name for it.
    { SSL_AD_REASON_OFFSET + SSL_AD_NO_APPLICATION_PROTOCOL, Reason::unknown_alpn },
};

std::string last_error() {
    const unsigned long code = ERR_peek_last_error();
    char                text[200];
    ERR_error_string_n(code, text, sizeof(text));
    ERR_clear_error();
    return text;
}

std::string hex_of(const ASN1_INTEGER * number) {
    BIGNUM *    big  = ASN1_INTEGER_to_BN(number, nullptr);
    char *      text = BN_bn2hex(big);
    std::string hex(text);
    OPENSSL_free(text);
    BN_free(big);
    hex.erase(0, std::min(hex.find_first_not_of('0'), hex.size() - 1));
    std::transform(hex.begin(), hex.end(), hex.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return hex;
}

std::string time_text(const ASN1_TIME * time) {
    tm parts = {};
    ASN1_TIME_to_tm(time, &parts);
    char text[32];
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
    return text;
}

// The one URI SAN of `certificate`, or an empty string if it has none or several.
std::string uri_of(X509 * certificate) {
    auto * names = static_cast<GENERAL_NAMES *>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
    std::string uri;
    int         uris = 0;
    for (int i = 0; i < sk_GENERAL_NAME_num(names); ++i) {
        const GENERAL_NAME * name = sk_GENERAL_NAME_value(names, i);
        if (name->type == GEN_URI) {
            const ASN1_IA5STRING * text = name->d.uniformResourceIdentifier;
            uri.assign(reinterpret_cast<const char *>(ASN1_STRING_get0_data(text)), static_cast<size_t>(ASN1_STRING_length(text)));
            ++uris;
        }
    }
    GENERAL_NAMES_free(names);
    return uris == 1 ? uri : "";
}

// Length-prefixed, as OpenSSL wants it.
std::string alpn_wire(const std::vector<std::string> & alpns) {
    std::string wire;
    for (const std::string & alpn : alpns) {
        wire += static_cast<char>(alpn.size());
        wire += alpn;
    }
    return wire;
}

int choose_alpn(SSL *, const unsigned char ** out, unsigned char * out_length, const unsigned char * in, unsigned in_length, void * arg) {
    const auto * ours   = static_cast<const std::string *>(arg);
    unsigned char * pick = nullptr;
    const int status = SSL_select_next_proto(&pick, out_length, reinterpret_cast<const unsigned char *>(ours->data()),
                                             static_cast<unsigned>(ours->size()), in, in_length);
    *out = pick;
    return status == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

void free_string(void *, void * pointer, CRYPTO_EX_DATA *, int, long, void *) {
    delete static_cast<std::string *>(pointer);
}

// The context owns the list that its callback reads.
int alpn_index() {
    static const int index = SSL_CTX_get_ex_new_index(0, nullptr, nullptr, nullptr, free_string);
    return index;
}

bool is_private(const std::string & path, std::string & error) {
    struct stat found;
    if (stat(path.c_str(), &found) != 0) {
        error = path + " cannot be read: " + std::strerror(errno);
        return false;
    }
    if ((found.st_mode & 077) != 0) {
        error = path + " can be read by others: chmod 600 " + path;
        return false;
    }
    return true;
}

Openssl<X509> read_certificate(const std::string & path) {
    const Openssl<BIO> file(BIO_new_file(path.c_str(), "r"));
    return Openssl<X509>(file ? PEM_read_bio_X509(file.get(), nullptr, nullptr, nullptr) : nullptr);
}

bool load_revocations(const std::string & path, X509 * ca, Identity & identity, std::string & error) {
    const Openssl<BIO> file(BIO_new_file(path.c_str(), "r"));
    const Openssl<X509_CRL> crl(file ? PEM_read_bio_X509_CRL(file.get(), nullptr, nullptr, nullptr) : nullptr);
    if (!crl) {
        error = path + " is not a revocation list: " + last_error();
        return false;
    }
    if (X509_CRL_verify(crl.get(), X509_get0_pubkey(ca)) != 1) {
        error = path + " is not signed by this mesh's authority";
        ERR_clear_error();
        return false;
    }
    auto * number = static_cast<ASN1_INTEGER *>(X509_CRL_get_ext_d2i(crl.get(), NID_crl_number, nullptr, nullptr));
    if (number == nullptr) {
        error = path + " has no number";
        return false;
    }
    identity.crl_number = ASN1_INTEGER_get(number);
    ASN1_INTEGER_free(number);
    STACK_OF(X509_REVOKED) * entries = X509_CRL_get_REVOKED(crl.get());
    for (int i = 0; i < sk_X509_REVOKED_num(entries); ++i) {
        identity.revoked.insert(hex_of(X509_REVOKED_get0_serialNumber(sk_X509_REVOKED_value(entries, i))));
    }
    X509_STORE * store = SSL_CTX_get_cert_store(identity.context.get());
    X509_STORE_add_crl(store, crl.get());
    X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK);
    return true;
}

}  // namespace

std::shared_ptr<const Identity> load_identity(const std::string & directory, bool server, const std::vector<std::string> & alpns, std::string & error) {
    const std::string key  = directory + "/key.pem";
    const std::string cert = directory + "/cert.pem";
    const std::string ca   = directory + "/ca.pem";
    auto              made = std::make_shared<Identity>();
    ERR_clear_error();
    made->context.reset(SSL_CTX_new(server ? TLS_server_method() : TLS_client_method()));
    SSL_CTX * context = made->context.get();
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_ciphersuites(context, CIPHERS);
    if (SSL_CTX_set1_groups_list(context, GROUPS_HYBRID) != 1) {
        ERR_clear_error();
        SSL_CTX_set1_groups_list(context, GROUPS);
    }
    // A resumed session would outlive a revocation.
    SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_num_tickets(context, 0);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
    SSL_CTX_set_verify_depth(context, 1);
    if (!is_private(key, error)) {
        return nullptr;
    }
    if (SSL_CTX_use_PrivateKey_file(context, key.c_str(), SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_use_certificate_file(context, cert.c_str(), SSL_FILETYPE_PEM) != 1 || SSL_CTX_check_private_key(context) != 1) {
        error = key + " and " + cert + " are not a pair: " + last_error();
        return nullptr;
    }
    const Openssl<X509> authority = read_certificate(ca);
    if (!authority || X509_STORE_add_cert(SSL_CTX_get_cert_store(context), authority.get()) != 1) {
        error = ca + " is not a certificate: " + last_error();
        return nullptr;
    }
    if (!load_revocations(directory + "/revoked.pem", authority.get(), *made, error)) {
        return nullptr;
    }
    X509 * own      = SSL_CTX_get0_certificate(context);
    made->uri       = uri_of(own);
    made->serial    = hex_of(X509_get0_serialNumber(own));
    made->not_after = time_text(X509_get0_notAfter(own));
    if (made->uri.empty()) {
        error = cert + " does not have exactly one URI name";
        return nullptr;
    }
    if (server) {
        auto * wire = new std::string(alpn_wire(alpns));
        SSL_CTX_set_ex_data(context, alpn_index(), wire);
        SSL_CTX_set_alpn_select_cb(context, choose_alpn, wire);
    }
    return made;
}

TlsStream::TlsStream(const Identity & identity, bool server, const std::string & alpn) :
    ssl_(SSL_new(identity.context.get())),
    in_(BIO_new(BIO_s_mem())),
    out_(BIO_new(BIO_s_mem())) {
    // Without this an empty memory BIO would read as the end of the stream.
    BIO_set_mem_eof_return(in_, -1);
    BIO_set_mem_eof_return(out_, -1);
    SSL_set_bio(ssl_.get(), in_, out_);
    if (server) {
        SSL_set_accept_state(ssl_.get());
    } else {
        const std::string wire = alpn_wire({ alpn });
        SSL_set_alpn_protos(ssl_.get(), reinterpret_cast<const unsigned char *>(wire.data()), static_cast<unsigned>(wire.size()));
        SSL_set_connect_state(ssl_.get());
    }
}

TlsStream::Step TlsStream::handshake() {
    ERR_clear_error();
    const int status = SSL_do_handshake(ssl_.get());
    if (status == 1) {
        return Step::done;
    }
    if (SSL_get_error(ssl_.get(), status) == SSL_ERROR_WANT_READ) {
        return Step::wants_input;
    }
    reason_ = classify(true);
    return Step::failed;
}

void TlsStream::feed(const uint8_t * data, size_t size) {
    BIO_write(in_, data, static_cast<int>(size));
}

long TlsStream::read(uint8_t * data, size_t size) {
    ERR_clear_error();
    size_t got = 0;
    if (SSL_read_ex(ssl_.get(), data, size, &got) == 1) {
        return static_cast<long>(got);
    }
    switch (SSL_get_error(ssl_.get(), 0)) {
        case SSL_ERROR_WANT_READ:
            return 0;
        case SSL_ERROR_ZERO_RETURN:
            return -1;
        default:
            reason_ = classify(false);
            return -1;
    }
}

bool TlsStream::write(const uint8_t * data, size_t size) {
    ERR_clear_error();
    while (size > 0) {
        size_t written = 0;
        if (SSL_write_ex(ssl_.get(), data, size, &written) != 1) {
            reason_ = classify(false);
            return false;
        }
        data += written;
        size -= written;
    }
    return true;
}

void TlsStream::close_write() {
    SSL_shutdown(ssl_.get());
    ERR_clear_error();
}

size_t TlsStream::pending(const uint8_t ** data) const {
    char *     start = nullptr;
    const long size  = BIO_get_mem_data(out_, &start);
    *data            = reinterpret_cast<const uint8_t *>(start);
    return size > 0 ? static_cast<size_t>(size) : 0;
}

void TlsStream::sent(size_t size) {
    // Reading into nothing: a memory BIO only moves its front.
    uint8_t discard[16 * 1024];
    while (size > 0) {
        const int taken = BIO_read(out_, discard, static_cast<int>(std::min(size, sizeof(discard))));
        if (taken <= 0) {
            return;
        }
        size -= static_cast<size_t>(taken);
    }
}

std::string TlsStream::peer_uri() const {
    X509 * peer = SSL_get0_peer_certificate(ssl_.get());
    return peer != nullptr ? uri_of(peer) : "";
}

std::string TlsStream::peer_serial() const {
    X509 * peer = SSL_get0_peer_certificate(ssl_.get());
    return peer != nullptr ? hex_of(X509_get0_serialNumber(peer)) : "";
}

std::string TlsStream::alpn() const {
    const unsigned char * data   = nullptr;
    unsigned              length = 0;
    SSL_get0_alpn_selected(ssl_.get(), &data, &length);
    return std::string(reinterpret_cast<const char *>(data), length);
}

// OpenSSL's queue may hold the crypto library's complaint before TLS's own, and a general one of TLS behind it.
Reason TlsStream::classify(bool handshaking) const {
    while (const unsigned long code = ERR_get_error()) {
        const Reason reason = ERR_GET_LIB(code) == ERR_LIB_SSL ? reason_of(ERR_GET_REASON(code)) : Reason::none;
        if (reason != Reason::none) {
            ERR_clear_error();
            return reason;
        }
    }
    return handshaking ? Reason::handshake_broken : Reason::peer_closed;
}

// `none` if `code` says too little.
Reason TlsStream::reason_of(int code) const {
    if (code == SSL_R_CERTIFICATE_VERIFY_FAILED) {
        const long verdict = SSL_get_verify_result(ssl_.get());
        for (const VerifyReason & row : verify_reasons) {
            if (row.code == verdict) {
                return row.reason;
            }
        }
        return Reason::certificate_invalid;
    }
    for (const ProtocolReason & row : protocol_reasons) {
        if (row.code == code) {
            return row.reason;
        }
    }
    // Alerts that the peer sent: one byte above this offset.
    const bool alert = code >= SSL_AD_REASON_OFFSET && code <= SSL_AD_REASON_OFFSET + 255;
    return alert ? Reason::refused_by_peer : Reason::none;
}

}  // namespace rpcmesh
