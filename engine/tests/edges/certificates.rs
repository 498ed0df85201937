//! Certificates for tests: an authority of our own and a certificate for `localhost` that it signed.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// PEM texts.
pub struct Certificates {
    pub authority: String,
    pub certificate: String,
    pub key: String,
}

/// A new authority and what it signed.
pub fn certificates() -> Certificates {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    // Another name than what it signs has: OpenSSL takes equal names for self-signed.
    authority.distinguished_name.push(DnType::CommonName, "an authority for tests");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    Certificates { authority: authority_certificate.pem(), certificate: certificate.pem(), key: key.serialize_pem() }
}
