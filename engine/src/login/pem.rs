//! Certificates and keys as administrators have them: PEM text, the bare base64 between its lines (as in SAML metadata and OS2iot's
//! settings), either with `\n` written out as an `.env` file makes of it, or the path of a file with one of these.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;

/// Why a text is no certificate or key. Shows nothing of it.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    #[error("the file cannot be read: {0}")]
    File(#[from] std::io::Error),
    #[error("neither a PEM certificate nor its base64")]
    NotACertificate,
    #[error("neither a PEM private key nor its base64, unencrypted")]
    NotAKey,
    #[error("the private key is not an RSA key of 2048 bits or more")]
    NotRsa,
}

/// Every certificate in `said`: a provider that changes its key has two for a while.
pub(super) fn certificates(said: &str) -> Result<Vec<X509>, PemError> {
    let text = text_of(said)?;
    if text.contains("-----BEGIN") {
        let found = X509::stack_from_pem(text.as_bytes()).map_err(|_| PemError::NotACertificate)?;
        return if found.is_empty() { Err(PemError::NotACertificate) } else { Ok(found) };
    }
    let der = bare(&text).ok_or(PemError::NotACertificate)?;
    Ok(vec![X509::from_der(&der).map_err(|_| PemError::NotACertificate)?])
}

/// The RSA key in `said`: PKCS#8 or PKCS#1.
pub(super) fn private_key(said: &str) -> Result<PKey<Private>, PemError> {
    let text = text_of(said)?;
    let key = if text.contains("-----BEGIN") {
        // An encrypted key would otherwise be asked for its passphrase on the terminal.
        PKey::private_key_from_pem_callback(text.as_bytes(), |_| Ok(0))
    } else {
        let der = bare(&text).ok_or(PemError::NotAKey)?;
        PKey::private_key_from_der(&der)
    };
    let key = key.map_err(|_| PemError::NotAKey)?;
    let is_strong = key.rsa().is_ok_and(|rsa| rsa.size() >= 256);
    if is_strong { Ok(key) } else { Err(PemError::NotRsa) }
}

fn text_of(said: &str) -> Result<String, PemError> {
    let said = said.trim().replace("\\n", "\n").replace("\\r", "");
    let is_inline = said.contains("-----BEGIN") || bare(&said).is_some_and(|der| der.first() == Some(&0x30));
    if is_inline { Ok(said) } else { Ok(std::fs::read_to_string(Path::new(said.trim()))?) }
}

fn bare(text: &str) -> Option<Vec<u8>> {
    let packed: String = text.split_whitespace().collect();
    STANDARD.decode(packed).ok()
}

#[cfg(test)]
mod tests {
    use openssl::rsa::Rsa;

    use super::*;

    #[test]
    fn keys_and_certificates_are_read_in_every_form_they_come_in() {
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let pem = String::from_utf8(key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        let pkcs1 = String::from_utf8(key.rsa().unwrap().private_key_to_pem().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key.pem");
        std::fs::write(&file, &pem).unwrap();
        let bare = STANDARD.encode(key.private_key_to_der().unwrap());
        let path = file.to_str().unwrap().to_owned();
        for said in [pem.clone(), pkcs1, pem.replace('\n', "\\n"), bare, path] {
            assert!(private_key(&said).unwrap().public_eq(&key));
        }
        assert!(matches!(private_key("no-such-file.pem"), Err(PemError::File(_))));
        let weak = PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap();
        let weak = String::from_utf8(weak.private_key_to_pem_pkcs8().unwrap()).unwrap();
        assert!(matches!(private_key(&weak), Err(PemError::NotRsa)));
        let made = rcgen::generate_simple_self_signed(vec!["idp.example.org".to_owned()]).unwrap();
        let two = format!("{0}{0}", made.cert.pem());
        assert_eq!(certificates(&two).unwrap().len(), 2);
        assert_eq!(certificates(&STANDARD.encode(made.cert.der())).unwrap().len(), 1);
        assert!(certificates(&pem).is_err());
    }

    #[test]
    fn an_encrypted_key_is_refused_without_asking_for_its_passphrase() {
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let cipher = openssl::symm::Cipher::aes_256_cbc();
        let pem = String::from_utf8(key.private_key_to_pem_pkcs8_passphrase(cipher, b"sesame").unwrap()).unwrap();
        assert!(matches!(private_key(&pem), Err(PemError::NotAKey)));
    }
}
