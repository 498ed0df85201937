//! Encrypted assertions (XML Encryption): the assertion under a fresh AES key, that key under our RSA key.
//!
//! samael decrypts too, but only AES-128, also under RSA 1.5 padding, and panics on short texts. Here: RSA-OAEP and AES-128/256 in
//! GCM or CBC mode. What went wrong is never told apart, neither to the caller nor in the log: the differences are what padding
//! oracles live on. Integrity comes from the assertion's own signature, which is required.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::encrypt::Decrypter;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Padding;
use openssl::symm::{Cipher, Crypter, Mode, decrypt_aead};
use roxmltree::{Document, Node};
use sluse_schema::port::LogInError;

use super::xml::{ASSERTION, ENCRYPTION, SIGNATURE, children, only_child, refused, text};

const OAEP_MGF1P: &str = "http://www.w3.org/2001/04/xmlenc#rsa-oaep-mgf1p";
const OAEP: &str = "http://www.w3.org/2009/xmlenc11#rsa-oaep";
const XMLENC11: &str = "http://www.w3.org/2009/xmlenc11#";
const GCM_NONCE_BYTES: usize = 12;
const GCM_TAG_BYTES: usize = 16;
const BLOCK_BYTES: usize = 16;

/// Something could not be decrypted; deliberately not what.
struct Failed;

impl<E: std::error::Error> From<E> for Failed {
    fn from(_: E) -> Self {
        Self
    }
}

/// The assertion inside the response's one `EncryptedAssertion`, as it was written.
pub(super) fn assertion(response: &Document<'_>, key: &PKey<Private>) -> Result<String, LogInError> {
    let encrypted = only_child(response.root_element(), ASSERTION, "EncryptedAssertion")?;
    open(encrypted, key).map_err(|Failed| refused("the assertion could not be decrypted"))
}

fn open(encrypted: Node<'_, '_>, key: &PKey<Private>) -> Result<String, Failed> {
    let data = only_child(encrypted, ENCRYPTION, "EncryptedData")?;
    let key_info = children(data, SIGNATURE, "KeyInfo").next();
    // The wrapped key stands inside the data, or beside it.
    let wrapped = key_info
        .and_then(|info| children(info, ENCRYPTION, "EncryptedKey").next())
        .or_else(|| children(encrypted, ENCRYPTION, "EncryptedKey").next())
        .ok_or(Failed)?;
    let content_key = unwrap_key(wrapped, key)?;
    let method = only_child(data, ENCRYPTION, "EncryptionMethod")?;
    let clear = decipher(method.attribute("Algorithm").unwrap_or(""), &content_key, &cipher_value(data)?)?;
    Ok(String::from_utf8(clear)?)
}

fn cipher_value(of: Node<'_, '_>) -> Result<Vec<u8>, Failed> {
    let value = only_child(only_child(of, ENCRYPTION, "CipherData")?, ENCRYPTION, "CipherValue")?;
    let packed: String = text(value)?.split_whitespace().collect();
    Ok(STANDARD.decode(packed)?)
}

fn digest(algorithm: &str) -> Option<MessageDigest> {
    match algorithm.rsplit_once('#')?.1 {
        "sha1" | "mgf1sha1" => Some(MessageDigest::sha1()),
        "sha256" | "mgf1sha256" => Some(MessageDigest::sha256()),
        "sha384" | "mgf1sha384" => Some(MessageDigest::sha384()),
        "sha512" | "mgf1sha512" => Some(MessageDigest::sha512()),
        _ => None,
    }
}

fn unwrap_key(wrapped: Node<'_, '_>, key: &PKey<Private>) -> Result<Vec<u8>, Failed> {
    let method = only_child(wrapped, ENCRYPTION, "EncryptionMethod")?;
    let algorithm = method.attribute("Algorithm").unwrap_or("");
    if algorithm != OAEP && algorithm != OAEP_MGF1P {
        return Err(Failed);
    }
    let named = |namespace: &'static str, name: &'static str| match children(method, namespace, name).next() {
        None => Ok(MessageDigest::sha1()),
        Some(node) => digest(node.attribute("Algorithm").unwrap_or("")).ok_or(Failed),
    };
    let label_digest = named(SIGNATURE, "DigestMethod")?;
    let mask_digest = if algorithm == OAEP { named(XMLENC11, "MGF")? } else { MessageDigest::sha1() };
    if children(method, ENCRYPTION, "OAEPparams").next().is_some() {
        return Err(Failed);
    }
    let mut decrypter = Decrypter::new(key)?;
    decrypter.set_rsa_padding(Padding::PKCS1_OAEP)?;
    decrypter.set_rsa_oaep_md(label_digest)?;
    decrypter.set_rsa_mgf1_md(mask_digest)?;
    let packed = cipher_value(wrapped)?;
    let mut clear = vec![0_u8; decrypter.decrypt_len(&packed)?];
    let num_bytes = decrypter.decrypt(&packed, &mut clear)?;
    clear.truncate(num_bytes);
    Ok(clear)
}

fn decipher(algorithm: &str, key: &[u8], packed: &[u8]) -> Result<Vec<u8>, Failed> {
    let cbc = |cipher: Cipher| decipher_cbc(cipher, key, packed);
    let gcm = |cipher: Cipher| {
        if key.len() != cipher.key_len() || packed.len() < GCM_NONCE_BYTES + GCM_TAG_BYTES {
            return Err(Failed);
        }
        let (nonce, rest) = packed.split_at(GCM_NONCE_BYTES);
        let (body, tag) = rest.split_at(rest.len() - GCM_TAG_BYTES);
        Ok(decrypt_aead(cipher, key, Some(nonce), &[], body, tag)?)
    };
    match algorithm {
        "http://www.w3.org/2009/xmlenc11#aes128-gcm" => gcm(Cipher::aes_128_gcm()),
        "http://www.w3.org/2009/xmlenc11#aes256-gcm" => gcm(Cipher::aes_256_gcm()),
        "http://www.w3.org/2001/04/xmlenc#aes128-cbc" => cbc(Cipher::aes_128_cbc()),
        "http://www.w3.org/2001/04/xmlenc#aes256-cbc" => cbc(Cipher::aes_256_cbc()),
        _ => Err(Failed),
    }
}

/// XML Encryption pads as ISO 10126 does: the last byte says how many, the others are anything.
fn decipher_cbc(cipher: Cipher, key: &[u8], packed: &[u8]) -> Result<Vec<u8>, Failed> {
    if key.len() != cipher.key_len() || packed.len() < 2 * BLOCK_BYTES || !packed.len().is_multiple_of(BLOCK_BYTES) {
        return Err(Failed);
    }
    let (iv, body) = packed.split_at(BLOCK_BYTES);
    let mut crypter = Crypter::new(cipher, Mode::Decrypt, key, Some(iv))?;
    crypter.pad(false);
    let mut clear = vec![0_u8; body.len() + BLOCK_BYTES];
    let mut num_bytes = crypter.update(body, &mut clear)?;
    num_bytes += crypter.finalize(clear.get_mut(num_bytes..).ok_or(Failed)?)?;
    clear.truncate(num_bytes);
    let num_padding = usize::from(*clear.last().ok_or(Failed)?);
    if !(1..=BLOCK_BYTES).contains(&num_padding) || num_padding > clear.len() {
        return Err(Failed);
    }
    clear.truncate(clear.len() - num_padding);
    Ok(clear)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealed(cipher: Cipher, key: &[u8], clear: &[u8], padding: usize) -> Vec<u8> {
        let iv = [7_u8; BLOCK_BYTES];
        let mut padded = clear.to_vec();
        padded.resize(clear.len() + padding - 1, 0x5a);
        padded.push(u8::try_from(padding).unwrap());
        let mut crypter = Crypter::new(cipher, Mode::Encrypt, key, Some(&iv)).unwrap();
        crypter.pad(false);
        let mut out = vec![0; padded.len() + BLOCK_BYTES];
        let n = crypter.update(&padded, &mut out).unwrap();
        let m = crypter.finalize(&mut out[n..]).unwrap();
        out.truncate(n + m);
        [iv.as_slice(), &out].concat()
    }

    #[test]
    fn cbc_bears_any_padding_bytes_but_a_sensible_number_of_them() {
        let cipher = Cipher::aes_256_cbc();
        let packed = sealed(cipher, &[1; 32], b"<a>twenty bytes!</a>", 12);
        assert_eq!(decipher_cbc(cipher, &[1; 32], &packed).ok().unwrap(), b"<a>twenty bytes!</a>");
        assert!(decipher_cbc(cipher, &[1; 16], &packed).is_err());
        assert!(decipher_cbc(cipher, &[1; 32], &packed[..40]).is_err());
    }

    proptest! {
        /// samael's own panics on some of these.
        #[test]
        fn no_text_ends_anything(packed in proptest::collection::vec(any::<u8>(), 0..80), key in proptest::collection::vec(any::<u8>(), 0..40)) {
            for algorithm in [
                "http://www.w3.org/2009/xmlenc11#aes128-gcm",
                "http://www.w3.org/2009/xmlenc11#aes256-gcm",
                "http://www.w3.org/2001/04/xmlenc#aes128-cbc",
                "http://www.w3.org/2001/04/xmlenc#aes256-cbc",
                "http://www.w3.org/2001/04/xmlenc#tripledes-cbc",
            ] {
                let _ = decipher(algorithm, &key, &packed);
            }
        }
    }
}
