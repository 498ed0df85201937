//! What a device of our own MQTT broker proves itself with: a password's hash, or a certificate.

use std::fmt::Debug;

use async_trait::async_trait;

use super::StoreError;
use crate::secret::Secret;

/// A certificate with its key and the authority that signed it, all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedCertificate {
    pub authority: String,
    pub certificate: String,
    pub key: Secret,
}

/// Makes what devices prove themselves with.
#[async_trait]
pub trait DeviceIdentities: Debug + Send + Sync + 'static {
    /// The hash that the broker compares a password with: `PBKDF2$sha512$1000$<salt>$<key>`, both in base64 (mosquitto-go-auth).
    async fn hash_password(&self, password: &Secret) -> String;

    /// A certificate for this name, good for a year. The first makes the authority.
    ///
    /// # Errors
    /// [`StoreError`] when the authority cannot be read or written.
    async fn issue(&self, common_name: &str) -> Result<IssuedCertificate, StoreError>;
}
