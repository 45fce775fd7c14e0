//! The program that is looked at: read a key, sign a file, verify, forget. Four ways to write it.
//!
//! The key's file is read line by line through a `BufReader`, as PEM readers do. The first stop is in the
//! middle of the work, right after signing; the second is when all of it has been dropped.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};

use ed25519_dalek::pkcs8::DecodePrivateKey;
use ed25519_dalek::{Signature, Signer, SigningKey, Verifier};
use oubliette::{Scope, SecretBox};
use zeroize::Zeroizing;

use super::{Outcome, switch};

/// The environment variable that tells a process what it is.
pub(crate) const ROLE_VARIABLE: &str = "OUBLIETTE_PROOF_ROLE";

/// A way to write the program. See the table in `proof.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrangement {
    Std,
    Zeroize,
    Oubliette,
    Scope,
}

impl Arrangement {
    pub(crate) const ALL: [Self; 4] = [Self::Std, Self::Zeroize, Self::Oubliette, Self::Scope];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Std => "std",
            Self::Zeroize => "zeroize",
            Self::Oubliette => "oubliette",
            Self::Scope => "with scope",
        }
    }

    /// The global allocator of the process, as `switch.rs` wants it said.
    pub(crate) fn allocator(self) -> &'static CStr {
        match self {
            Self::Std | Self::Zeroize => c"system",
            Self::Oubliette | Self::Scope => switch::OUBLIETTE_VALUE,
        }
    }
}

/// What this process is: one of the three, or the one that looks at them.
pub(crate) fn role() -> Option<Arrangement> {
    let name = std::env::var(ROLE_VARIABLE).ok()?;
    Arrangement::ALL.into_iter().find(|arrangement| arrangement.name() == name)
}

/// Does the job, stopping twice for the scan: with the key in use, and after it was dropped.
pub(crate) fn run(arrangement: Arrangement) -> Outcome<()> {
    end_with_parent();
    let mut arguments = std::env::args().skip(1);
    let (Some(key), Some(file)) = (arguments.next(), arguments.next()) else {
        return Err("this role is started by the program itself".into());
    };
    let signature = match arrangement {
        Arrangement::Std => on_std(&key, &file),
        Arrangement::Zeroize => with_zeroize(&key, &file),
        Arrangement::Oubliette => with_oubliette(&key, &file),
        Arrangement::Scope => in_scopes(&key, &file),
    }?;
    // What the scan wants to know is what stays behind while the program goes on with other things.
    let signature = hex(&signature.to_bytes());
    stop();
    println!("{signature}");
    Ok(())
}

/// (1) `String`, `Vec`, arrays.
fn on_std(key: &str, file: &str) -> Outcome<Signature> {
    let mut text = String::new();
    for line in BufReader::new(File::open(key)?).lines() {
        text.push_str(&line?);
        text.push('\n');
    }
    let (_label, der) = pem_rfc7468::decode_vec(text.as_bytes())?;
    let key = Box::new(SigningKey::from_pkcs8_der(&der)?.to_bytes());
    let message = fs::read(file)?;
    let signature = SigningKey::from_bytes(&key).sign(&message);
    stop();
    verify(&key, &message, &signature)?;
    Ok(signature)
}

/// (2) The same with every buffer that holds key material in `Zeroizing`.
fn with_zeroize(key: &str, file: &str) -> Outcome<Signature> {
    let mut text = Zeroizing::new(String::new());
    for line in BufReader::new(File::open(key)?).lines() {
        let line = Zeroizing::new(line?);
        text.push_str(&line);
        text.push('\n');
    }
    let (_label, der) = pem_rfc7468::decode_vec(text.as_bytes())?;
    let der = Zeroizing::new(der);
    let key = Box::new(Zeroizing::new(SigningKey::from_pkcs8_der(&der)?.to_bytes()));
    let message = fs::read(file)?;
    let signature = SigningKey::from_bytes(&key).sign(&message);
    stop();
    verify(&key, &message, &signature)?;
    Ok(signature)
}

/// (3) The same as the first on another allocator, with the key in a `SecretBox`.
fn with_oubliette(key: &str, file: &str) -> Outcome<Signature> {
    let mut text = String::new();
    for line in BufReader::new(File::open(key)?).lines() {
        text.push_str(&line?);
        text.push('\n');
    }
    let (_label, der) = pem_rfc7468::decode_vec(text.as_bytes())?;
    let parsed = SigningKey::from_pkcs8_der(&der)?;
    let key = SecretBox::<[u8; 32]>::new_with(|key| *key = parsed.to_bytes())?;
    let message = fs::read(file)?;
    let signature = SigningKey::from_bytes(key.expose()).sign(&message);
    stop();
    verify(key.expose(), &message, &signature)?;
    Ok(signature)
}

/// A scope for signing. Compiled without optimisation, the crypto library needs more stack than the default.
const SCOPE: Scope =
    Scope::builder().stack_bytes(if cfg!(debug_assertions) { 1 << 20 } else { 64 << 10 }).build();

/// (4) The same as the third with everything that touches the key in scopes.
fn in_scopes(key: &str, file: &str) -> Outcome<Signature> {
    let key = SCOPE.run(|| load(key).ok())?.ok_or("the key cannot be read")?;
    let message = fs::read(file)?;
    let signature = SCOPE.run(|| SigningKey::from_bytes(key.expose()).sign(&message).to_bytes())?;
    stop();
    let signature = Signature::from_bytes(&signature);
    if !SCOPE.run(|| verify(key.expose(), &message, &signature).is_ok())? {
        return Err("the signature does not verify".into());
    }
    Ok(signature)
}

/// Reads the key as `on_std` does, to where it is to stay.
fn load(path: &str) -> Outcome<SecretBox<[u8; 32]>> {
    let mut text = String::new();
    for line in BufReader::new(File::open(path)?).lines() {
        text.push_str(&line?);
        text.push('\n');
    }
    let (_label, der) = pem_rfc7468::decode_vec(text.as_bytes())?;
    let parsed = SigningKey::from_pkcs8_der(&der)?;
    Ok(SecretBox::new_with(|key| *key = parsed.to_bytes())?)
}

fn verify(key: &[u8; 32], message: &[u8], signature: &Signature) -> Outcome<()> {
    Ok(SigningKey::from_bytes(key).verifying_key().verify(message, signature)?)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Waits until the process that started this one has looked.
fn stop() {
    // SAFETY: no memory is involved. SIGSTOP stops the whole process and cannot be caught (signal(7)).
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// A stopped process whose parent died would stay for ever.
fn end_with_parent() {
    // SAFETY: this option takes a signal number and touches no memory (prctl(2)).
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}
