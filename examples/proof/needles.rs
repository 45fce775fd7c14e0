//! Every secret that the job handles, worked out by the process that looks for them.

use std::fs::File;
use std::io::Read;

use curve25519_dalek::Scalar;
use ed25519_dalek::hazmat::ExpandedSecretKey;

use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use ed25519_dalek::{Digest, Sha512, Signer, SigningKey};

use super::Outcome;
use super::scan::Needles;
use super::subject::hex;

/// The key and all that signing derives from it (RFC 8032, section 5.1.6).
pub(crate) struct Secrets {
    /// The private key proper: 32 random bytes.
    seed: [u8; 32],
    /// SHA-512 of the seed: half of it becomes the scalar, half is the prefix of the nonce's hash.
    hash: [u8; 64],
    /// The secret scalar, clamped and reduced.
    scalar: [u8; 32],
    /// SHA-512 of prefix and message.
    nonce_hash: [u8; 64],
    /// That hash reduced. Whoever has it and the signature has the scalar.
    nonce: [u8; 32],
    /// The last bytes of DER before the seed, and the first of the seed.
    der: Vec<u8>,
    /// The characters of the PEM text that encode the seed.
    pem: Vec<u8>,
    signature: [u8; 64],
}

impl Secrets {
    pub(crate) fn derive(pem: &str, message: &[u8]) -> Outcome<Self> {
        let key = SigningKey::from_pkcs8_pem(pem).map_err(|error| format!("not an ed25519 key: {error}"))?;
        let seed = key.to_bytes();
        let hash: [u8; 64] = Sha512::digest(seed).into();
        let expanded = ExpandedSecretKey::from_bytes(&hash);
        let nonce_hash: [u8; 64] =
            Sha512::new().chain_update(expanded.hash_prefix).chain_update(message).finalize().into();
        let (der, pem) = encodings(pem, &seed)?;
        Ok(Self {
            seed,
            hash,
            scalar: expanded.scalar.to_bytes(),
            nonce_hash,
            nonce: Scalar::from_bytes_mod_order_wide(&nonce_hash).to_bytes(),
            der,
            pem,
            signature: key.sign(message).to_bytes(),
        })
    }

    pub(crate) fn needles(&self) -> Needles {
        let mut needles = Needles::default();
        needles.add("PEM text", &self.pem);
        needles.add("DER", &self.der);
        needles.add("seed (the key)", &self.seed);
        // SHA-512 works on big-endian words: a compiled hash leaves the seed with each word turned round.
        let mut words = self.seed;
        words.as_chunks_mut::<8>().0.iter_mut().for_each(|word| word.reverse());
        needles.add("seed, as hash words", &words);
        needles.add("scalar", &self.scalar);
        needles.add("SHA-512 of seed", &self.hash);
        needles.add("nonce", &self.nonce);
        needles.add("SHA-512 for nonce", &self.nonce_hash);
        needles
    }

    pub(crate) fn signature_hex(&self) -> String {
        hex(&self.signature)
    }
}

/// A new key, as PKCS#8 PEM.
pub(crate) fn new_key() -> Outcome<String> {
    let mut seed = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(SigningKey::from_bytes(&seed).to_pkcs8_pem(Default::default())?.to_string())
}

/// The parts of the DER and of the PEM text that give the seed away, without the parts that are the same for
/// every key: those would be found in any program that can read one.
fn encodings(pem: &str, seed: &[u8; 32]) -> Outcome<(Vec<u8>, Vec<u8>)> {
    let (_label, der) = pem_rfc7468::decode_vec(pem.as_bytes())?;
    let at = der.windows(seed.len()).position(|bytes| bytes == seed).ok_or("the seed is not in the DER")?;
    // Four bytes of header before the seed, so that each window holds four to seven bytes of the seed.
    let straddling = der[at.saturating_sub(4)..at + 7].to_vec();
    let text: Vec<u8> = pem.lines().filter(|line| !line.starts_with("-----")).flat_map(str::bytes).collect();
    // Three bytes become four characters: take those made of seed bytes only.
    let characters = text[(at * 8).div_ceil(6)..(at + seed.len()) * 8 / 6].to_vec();
    Ok((straddling, characters))
}
