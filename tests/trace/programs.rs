//! Real cryptography that knows nothing of scopes. Each function makes its secrets itself, tells them as
//! needles, and stops while they are in use.

use std::hint::black_box;
use std::io::Write;
use std::sync::{Arc, Mutex};

use aes_gcm::aead::{Aead, KeyInit};
use oubliette::{Outcome, Scope};

use crate::child::{Mode, fill, needle, needle_of, stop};

/// Without optimisation frames are several times as large.
const SCOPE: Scope =
    Scope::builder().stack_bytes(if cfg!(debug_assertions) { 1 << 20 } else { 64 << 10 }).build();

/// Runs the program of this name, if there is one.
pub(crate) fn run(program: &str, mode: Mode) -> bool {
    match program {
        "rsa" => staged(mode, rsa),
        "ed25519" => staged(mode, ed25519),
        "aes_gcm" => staged(mode, aes_gcm),
        "argon2" => staged(mode, argon2),
        "x25519_chacha20poly1305" => staged(mode, x25519_chacha20poly1305),
        "rustls" => staged(mode, rustls),
        _ => return false,
    }
    true
}

/// Stops before and after; the program stops inside.
pub(crate) fn staged<R: Outcome>(mode: Mode, program: fn() -> R) {
    stop();
    let result = match mode {
        Mode::Scope => SCOPE.run(program).unwrap(),
        Mode::Control => program(),
    };
    stop();
    black_box(result);
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes);
    bytes
}

fn rsa() -> [u8; 256] {
    use rsa::rand_core::OsRng;
    use rsa::traits::{PrivateKeyParts, PublicKeyParts};

    let key = rsa::RsaPrivateKey::new(&mut OsRng, 2048).unwrap();
    for prime in key.primes() {
        needle("prime", &prime.to_bytes_le());
        needle("prime, big endian", &prime.to_bytes_be());
    }
    needle("private exponent", &key.d().to_bytes_le());
    for value in [key.dp(), key.dq()] {
        needle("exponent of a prime", &value.unwrap().to_bytes_le());
    }
    let digest: [u8; 32] = random();
    let signature = key.sign(rsa::Pkcs1v15Sign::new_unprefixed(), &digest).unwrap();
    stop();
    assert_eq!(key.size(), signature.len());
    signature.try_into().unwrap()
}

fn ed25519() -> [u8; 64] {
    use ed25519_dalek::hazmat::ExpandedSecretKey;
    use ed25519_dalek::{Signer, SigningKey};

    let seed: [u8; 32] = random();
    needle("seed", &seed);
    let expanded = ExpandedSecretKey::from(&seed);
    needle("scalar", expanded.scalar.as_bytes());
    needle("prefix", &expanded.hash_prefix);
    let key = SigningKey::from_bytes(&seed);
    let signature = key.sign(b"a message");
    stop();
    signature.to_bytes()
}

fn aes_gcm() -> u32 {
    let key: [u8; 32] = random();
    let plaintext: [u8; 64] = random();
    let nonce: [u8; 12] = random();
    needle("key", &key);
    needle("plaintext", &plaintext);
    let cipher = aes_gcm::Aes256Gcm::new(&key.into());
    needle_of("round keys and H", &cipher);
    let ciphertext = cipher.encrypt(&nonce.into(), plaintext.as_slice()).unwrap();
    let opened = cipher.decrypt(&nonce.into(), ciphertext.as_slice()).unwrap();
    stop();
    u32::from(opened == plaintext)
}

fn argon2() -> u32 {
    let password: [u8; 32] = random();
    let salt: [u8; 16] = random();
    needle("password", &password);
    let params = ::argon2::Params::new(1024, 2, 1, Some(32)).unwrap();
    let argon2 = ::argon2::Argon2::new(::argon2::Algorithm::Argon2id, ::argon2::Version::V0x13, params);
    let mut blocks = vec![::argon2::Block::default(); 1024];
    let mut key = [0; 32];
    argon2.hash_password_into_with_memory(&password, &salt, &mut key, &mut blocks).unwrap();
    needle("derived key", &key);
    needle_of("first block", &blocks[0]);
    needle_of("last block", &blocks[1023]);
    stop();
    u32::from(key != [0; 32])
}

fn x25519_chacha20poly1305() -> u32 {
    use x25519_dalek::{PublicKey, StaticSecret};

    let [ours, theirs]: [[u8; 32]; 2] = [random(), random()];
    needle("our secret", &ours);
    needle("their secret", &theirs);
    let [ours, theirs] = [ours, theirs].map(StaticSecret::from);
    let shared = ours.diffie_hellman(&PublicKey::from(&theirs));
    needle("shared secret", shared.as_bytes());
    let plaintext: [u8; 64] = random();
    needle("plaintext", &plaintext);
    let cipher = chacha20poly1305::ChaCha20Poly1305::new(shared.as_bytes().into());
    let nonce: [u8; 12] = random();
    let ciphertext = cipher.encrypt(&nonce.into(), plaintext.as_slice()).unwrap();
    let opened = cipher.decrypt(&nonce.into(), ciphertext.as_slice()).unwrap();
    stop();
    u32::from(opened == plaintext)
}

/// Tells the secrets of a connection as needles.
#[derive(Debug, Default)]
struct Secrets(Mutex<usize>);

impl rustls::KeyLog for Secrets {
    fn log(&self, _label: &str, _client_random: &[u8], secret: &[u8]) {
        needle("traffic secret", secret);
        *self.0.lock().unwrap() += 1;
    }
}

fn rustls() -> u32 {
    use rustls::crypto::ring::default_provider;
    use rustls::pki_types::PrivateKeyDer;

    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = certified.signing_key.serialize_der();
    needle("key of the certificate", &key[36..68]);
    let certificate = certified.cert.der().clone();
    let secrets = Arc::new(Secrets::default());
    let provider = Arc::new(default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], PrivateKeyDer::try_from(key).unwrap())
        .unwrap();
    server.key_log = secrets.clone();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.key_log = secrets.clone();
    let mut server = rustls::ServerConnection::new(Arc::new(server)).unwrap();
    let mut client =
        rustls::ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap()).unwrap();
    let plaintext: [u8; 64] = random();
    needle("plaintext", &plaintext);
    client.writer().write_all(&plaintext).unwrap();
    for _ in 0..4 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut unread = wire.as_slice();
        while !unread.is_empty() {
            server.read_tls(&mut unread).unwrap();
            server.process_new_packets().unwrap();
        }
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut unread = wire.as_slice();
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    let mut received = [0; 64];
    std::io::Read::read_exact(&mut server.reader(), &mut received).unwrap();
    stop();
    u32::from(received == plaintext && *secrets.0.lock().unwrap() > 0)
}
