//! What devices of our own MQTT broker prove themselves with: passwords hashed as mosquitto-go-auth reads them, certificates that
//! an authority of ours signs.
//!
//! The authority is one row of the database, its key encrypted, made when the first certificate is asked for: every node signs
//! with the same one. Keys are ECDSA P-256. A device's certificate is good for a year, the authority's for twenty.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Datelike, Months, Utc};
use rand::RngCore;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber, date_time_ymd,
};
use ring::pbkdf2;
use sluse_schema::port::StoreError;
use sluse_schema::port::identity::{DeviceIdentities, IssuedCertificate};
use sluse_schema::secret::Secret;

use crate::store::{Cipher, Store};

/// What go-auth's hasher is set to; the broker reads it from the hash.
const NUM_ITERATIONS: NonZeroU32 = match NonZeroU32::new(1000) {
    Some(n) => n,
    None => NonZeroU32::MIN,
};
const SALT_BYTES: usize = 16;
const KEY_BYTES: usize = 256;
const AUTHORITY_NAME: &str = "Sluse device authority";
const AUTHORITY_YEARS: u32 = 20;
const DEVICE_YEARS: u32 = 1;
/// X.520's bound of a common name.
const COMMON_NAME_CHARS_MAX: usize = 64;
const READ_TIMEOUT: Duration = Duration::from_secs(6);

/// Hashes and signs.
#[derive(Clone, Debug)]
pub struct Identities {
    store: Arc<Store>,
}

impl Identities {
    /// With the authority of this database.
    pub fn new(store: &Arc<Store>) -> Self {
        Self { store: Arc::clone(store) }
    }
}

/// The authority with its key.
struct Authority {
    certificate: String,
    key: KeyPair,
}

impl Authority {
    fn new() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let certificate = authority_params()?.self_signed(&key)?.pem();
        Ok(Self { certificate, key })
    }

    fn sign(self, common_name: &str) -> Result<IssuedCertificate, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = named(common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, DEVICE_YEARS);
        // Only the authority's name and key are needed to sign: what was stored is the same certificate.
        let issuer = Issuer::new(authority_params()?, self.key);
        let certificate = params.signed_by(&key, &issuer)?.pem();
        Ok(IssuedCertificate { authority: self.certificate, certificate, key: Secret::new(key.serialize_pem()) })
    }
}

fn authority_params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = named(AUTHORITY_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, AUTHORITY_YEARS);
    Ok(params)
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name.chars().take(COMMON_NAME_CHARS_MAX).collect::<String>());
    name
}

/// From yesterday, for devices whose clock is behind, and with a random serial number.
fn valid_for(params: &mut CertificateParams, years: u32) {
    let day = |at: DateTime<Utc>| date_time_ymd(at.year(), at.month() as u8, at.day() as u8);
    let now = Utc::now();
    params.not_before = day(now - chrono::TimeDelta::days(1));
    params.not_after = day(now + Months::new(12 * years));
    let mut serial = [0u8; 16];
    rand::rng().fill_bytes(&mut serial);
    // Positive, as X.509 wants it.
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
}

fn hash(password: &str) -> String {
    let mut salt = [0u8; SALT_BYTES];
    rand::rng().fill_bytes(&mut salt);
    let mut key = vec![0u8; KEY_BYTES];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, NUM_ITERATIONS, &salt, password.as_bytes(), &mut key);
    format!("PBKDF2$sha512${NUM_ITERATIONS}${}${}", STANDARD.encode(salt), STANDARD.encode(key))
}

/// Signing fails for want of random numbers or memory alone: nothing that a caller did.
fn unusable(error: rcgen::Error) -> StoreError {
    StoreError::Unavailable(format!("no certificate can be made: {error}"))
}

fn load(cipher: &Cipher, row: &tokio_postgres::Row) -> Result<Authority, StoreError> {
    let sealed: &[u8] = row.get(1);
    let refused = |reason: String| StoreError::Refused(format!("the certificate authority: {reason}"));
    let pem = cipher.decrypt(sealed).map_err(|error| refused(error.to_string()))?;
    let pem = String::from_utf8(pem).map_err(|error| refused(error.to_string()))?;
    let key = KeyPair::from_pem(&pem).map_err(|error| refused(error.to_string()))?;
    Ok(Authority { certificate: row.get(0), key })
}

impl Identities {
    /// The authority, which is made when there is none. Two nodes that make one at once end up with the same.
    async fn authority(&self) -> Result<Authority, StoreError> {
        const SELECT: &str = "SELECT certificate, key_enc FROM certificate_authority WHERE id = 1";
        let (pool, cipher) = (self.store.pool(), self.store.cipher());
        let work = async {
            let client = pool.get().await.map_err(|error| StoreError::Unavailable(error.to_string()))?;
            let away = |error: tokio_postgres::Error| StoreError::Unavailable(error.to_string());
            if let Some(row) = client.query_opt(SELECT, &[]).await.map_err(away)? {
                return load(cipher, &row);
            }
            let made = Authority::new().map_err(unusable)?;
            let sealed = cipher.encrypt(made.key.serialize_pem().as_bytes());
            let insert =
                "INSERT INTO certificate_authority (certificate, key_enc) VALUES ($1, $2) ON CONFLICT DO NOTHING";
            client.execute(insert, &[&made.certificate, &sealed]).await.map_err(away)?;
            let row = client.query_one(SELECT, &[]).await.map_err(away)?;
            load(cipher, &row)
        };
        tokio::time::timeout(READ_TIMEOUT, work)
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("the certificate authority was not read in time".into())))
    }
}

#[async_trait]
impl DeviceIdentities for Identities {
    async fn hash_password(&self, password: &Secret) -> String {
        let password = password.clone();
        // Some milliseconds of arithmetic: not on a thread that serves others.
        match tokio::task::spawn_blocking(move || hash(password.reveal())).await {
            Ok(hash) => hash,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    async fn issue(&self, common_name: &str) -> Result<IssuedCertificate, StoreError> {
        self.authority().await?.sign(common_name).map_err(unusable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_what_go_auth_reads_and_verifies() {
        let text = hash("s3cret");
        let parts: Vec<_> = text.split('$').collect();
        assert_eq!(parts[..3], ["PBKDF2", "sha512", "1000"]);
        let (salt, key) = (STANDARD.decode(parts[3]).unwrap(), STANDARD.decode(parts[4]).unwrap());
        assert_eq!((salt.len(), key.len()), (SALT_BYTES, KEY_BYTES));
        let verify =
            |word: &str| pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA512, NUM_ITERATIONS, &salt, word.as_bytes(), &key);
        assert!(verify("s3cret").is_ok());
        assert!(verify("secret").is_err());
        assert_ne!(hash("s3cret"), text, "the salt is another every time");
    }

    #[test]
    fn a_certificate_is_signed_by_the_authority_that_comes_with_it_and_carries_the_devices_name() {
        let authority = Authority::new().unwrap();
        let pem = authority.certificate.clone();
        let issued = authority.sign("Pump 7").unwrap();
        assert_eq!(issued.authority, pem);
        let der = |pem: &str| rustls_pemfile::certs(&mut pem.as_bytes()).next().unwrap().unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(der(&pem)).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let now = rustls::pki_types::UnixTime::now();
        let certificate = der(&issued.certificate);
        assert!(verifier.verify_client_cert(&certificate, &[], now).is_ok());
        assert!(certificate.windows(6).any(|bytes| bytes == b"Pump 7"));
        KeyPair::from_pem(issued.key.reveal()).unwrap();

        let other = Authority::new().unwrap().sign("Pump 7").unwrap();
        assert!(verifier.verify_client_cert(&der(&other.certificate), &[], now).is_err());
    }
}
