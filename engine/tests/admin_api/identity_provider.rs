//! A SAML identity provider that says what a test wants it to say, with real signatures (xmlsec) and real encryption (OpenSSL).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use flate2::read::DeflateDecoder;
use openssl::asn1::Asn1Time;
use openssl::encrypt::Encrypter;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::{Padding, Rsa};
use openssl::sign::Verifier;
use openssl::symm::{Cipher, Crypter, Mode, encrypt_aead};
use openssl::x509::{X509, X509NameBuilder};
use samael::crypto::{Crypto, CryptoProvider};
use std::collections::HashMap;
use std::io::Read;
use url::Url;

pub const ENTITY_ID: &str = "https://idp.example.org/saml";
pub const ROLE: &str = "http://os2iot.dk/roles/usersystemrole/adgang/";
pub const NAME_ID: &str = "C=DK,O=12345678 // Byen & Co,CN=Åse <Ek>,Serial=7f2e";

/// A key with its certificate.
pub struct Pair {
    pub key: PKey<Private>,
    pub certificate: X509,
}

impl Pair {
    pub fn new(name: &str) -> Self {
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let mut subject = X509NameBuilder::new().unwrap();
        subject.append_entry_by_text("CN", name).unwrap();
        let subject = subject.build();
        let mut certificate = X509::builder().unwrap();
        certificate.set_version(2).unwrap();
        certificate.set_subject_name(&subject).unwrap();
        certificate.set_issuer_name(&subject).unwrap();
        certificate.set_pubkey(&key).unwrap();
        certificate.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
        certificate.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
        certificate.sign(&key, MessageDigest::sha256()).unwrap();
        Self { key, certificate: certificate.build() }
    }

    pub fn key_pem(&self) -> String {
        String::from_utf8(self.key.private_key_to_pem_pkcs8().unwrap()).unwrap()
    }

    pub fn certificate_pem(&self) -> String {
        String::from_utf8(self.certificate.to_pem().unwrap()).unwrap()
    }
}

/// What a signed request said.
pub struct Request {
    pub id: String,
    pub xml: String,
    pub base: String,
}

/// Reads the redirect that a browser was given, and checks its signature as a provider does: over the query as it came.
pub fn read_request(location: &str, service: &X509) -> Request {
    let (base, query) = location.split_once('?').unwrap();
    let (signed, signature) = query.split_once("&Signature=").expect("requests are signed");
    let values: HashMap<String, String> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    assert_eq!(values["SigAlg"], "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256");
    assert!(!signature.is_empty());
    let public = service.public_key().unwrap();
    let mut verifier = Verifier::new(MessageDigest::sha256(), &public).unwrap();
    let signature = STANDARD.decode(&values["Signature"]).unwrap();
    // What the entry point had in its query is not part of it.
    let signed = &signed[signed.find("SAMLRequest=").unwrap()..];
    assert!(verifier.verify_oneshot(&signature, signed.as_bytes()).unwrap(), "the request's signature");
    let mut xml = String::new();
    DeflateDecoder::new(STANDARD.decode(&values["SAMLRequest"]).unwrap().as_slice()).read_to_string(&mut xml).unwrap();
    let document = roxmltree::Document::parse(&xml).unwrap();
    let id = document.root_element().attribute("ID").unwrap().to_owned();
    Request { id, base: base.to_owned(), xml }
}

/// What a response is to say; [`Say::good`] is what a provider says.
#[derive(Clone)]
pub struct Say {
    pub in_response_to: String,
    pub assertion_in_response_to: String,
    pub audience: String,
    pub recipient: String,
    pub destination: String,
    pub name_id: String,
    pub privileges: Vec<String>,
    pub issued_at: DateTime<Utc>,
    pub digest: &'static str,
    pub signature: &'static str,
}

impl Say {
    pub fn good(request_id: &str, backend: &str) -> Self {
        let base = format!("{backend}/api/v1/auth/kombit");
        Self {
            in_response_to: request_id.to_owned(),
            assertion_in_response_to: request_id.to_owned(),
            audience: format!("{base}/metadata"),
            recipient: format!("{base}/login/callback"),
            destination: format!("{base}/login/callback"),
            name_id: NAME_ID.to_owned(),
            privileges: vec![format!("{ROLE}1")],
            issued_at: Utc::now(),
            digest: "http://www.w3.org/2001/04/xmlenc#sha256",
            signature: "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256",
        }
    }
}

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A signature that is still to be made.
fn signature(say: &Say, id: &str) -> String {
    format!(
        "<ds:Signature xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\"><ds:SignedInfo><ds:CanonicalizationMethod \
         Algorithm=\"http://www.w3.org/2001/10/xml-exc-c14n#\"/><ds:SignatureMethod Algorithm=\"{}\"/><ds:Reference \
         URI=\"#{id}\"><ds:Transforms><ds:Transform Algorithm=\"http://www.w3.org/2000/09/xmldsig#enveloped-signature\"/>\
         <ds:Transform Algorithm=\"http://www.w3.org/2001/10/xml-exc-c14n#\"/></ds:Transforms><ds:DigestMethod \
         Algorithm=\"{}\"/><ds:DigestValue/></ds:Reference></ds:SignedInfo><ds:SignatureValue/></ds:Signature>",
        say.signature, say.digest
    )
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// An assertion with this id, not yet signed.
pub fn assertion(say: &Say, id: &str) -> String {
    let privileges: String = say.privileges.iter().map(|p| format!("<Privilege>{p}</Privilege>")).collect();
    let list = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><bpp:PrivilegeList \
         xmlns:bpp=\"http://itst.dk/oiosaml/basic_privilege_profile\"><PrivilegeGroup \
         Scope=\"urn:dk:gov:saml:cvrNumberIdentifier:12345678\">{privileges}</PrivilegeGroup></bpp:PrivilegeList>"
    );
    let (start, end) = (time(say.issued_at - TimeDelta::seconds(5)), time(say.issued_at + TimeDelta::minutes(5)));
    format!(
        "<saml:Assertion xmlns:saml=\"urn:oasis:names:tc:SAML:2.0:assertion\" ID=\"{id}\" Version=\"2.0\" \
         IssueInstant=\"{}\"><saml:Issuer>{ENTITY_ID}</saml:Issuer>{}<saml:Subject><saml:NameID \
         Format=\"urn:oasis:names:tc:SAML:1.1:nameid-format:X509SubjectName\">{}</saml:NameID><saml:SubjectConfirmation \
         Method=\"urn:oasis:names:tc:SAML:2.0:cm:bearer\"><saml:SubjectConfirmationData InResponseTo=\"{}\" \
         Recipient=\"{}\" NotOnOrAfter=\"{end}\"/></saml:SubjectConfirmation></saml:Subject><saml:Conditions \
         NotBefore=\"{start}\" NotOnOrAfter=\"{end}\"><saml:AudienceRestriction><saml:Audience>{}</saml:Audience>\
         </saml:AudienceRestriction></saml:Conditions><saml:AuthnStatement AuthnInstant=\"{start}\" SessionIndex=\"s1\">\
         <saml:AuthnContext><saml:AuthnContextClassRef>urn:oasis:names:tc:SAML:2.0:ac:classes:X509\
         </saml:AuthnContextClassRef></saml:AuthnContext></saml:AuthnStatement><saml:AttributeStatement><saml:Attribute \
         Name=\"dk:gov:saml:attribute:Privileges_intermediate\"><saml:AttributeValue>{}</saml:AttributeValue>\
         </saml:Attribute></saml:AttributeStatement></saml:Assertion>",
        time(say.issued_at),
        signature(say, id),
        escape(&say.name_id),
        escape(&say.assertion_in_response_to),
        escape(&say.recipient),
        escape(&say.audience),
        STANDARD.encode(list),
    )
}

/// Makes the first signature in the document.
pub fn sign(xml: &str, key: &PKey<Private>) -> String {
    let signed = Crypto::sign_xml(xml, &key.private_key_to_der().unwrap()).unwrap();
    signed.split_once("?>").map_or(signed.clone(), |(_, rest)| rest.trim().to_owned())
}

/// Without its signature.
pub fn unsigned(xml: &str) -> String {
    let (start, end) = (xml.find("<ds:Signature ").unwrap(), xml.find("</ds:Signature>").unwrap());
    format!("{}{}", &xml[..start], &xml[end + "</ds:Signature>".len()..])
}

/// A response around assertions, encrypted or not; `signed_by`: signed as a whole, too.
pub fn response(say: &Say, inside: &str, signed_by: Option<&PKey<Private>>) -> String {
    let placeholder = if signed_by.is_some() { signature(say, "_response") } else { String::new() };
    let xml = format!(
        "<samlp:Response xmlns:samlp=\"urn:oasis:names:tc:SAML:2.0:protocol\" \
         xmlns:saml=\"urn:oasis:names:tc:SAML:2.0:assertion\" ID=\"_response\" Version=\"2.0\" IssueInstant=\"{}\" \
         Destination=\"{}\" InResponseTo=\"{}\"><saml:Issuer>{ENTITY_ID}</saml:Issuer>{placeholder}<samlp:Status>\
         <samlp:StatusCode Value=\"urn:oasis:names:tc:SAML:2.0:status:Success\"/></samlp:Status>{inside}</samlp:Response>",
        time(say.issued_at),
        escape(&say.destination),
        escape(&say.in_response_to),
    );
    match signed_by {
        Some(key) => sign(&xml, key),
        None => xml,
    }
}

/// As a browser posts it.
pub fn posted(xml: &str) -> String {
    STANDARD.encode(xml)
}

/// How an assertion is encrypted.
#[derive(Clone, Copy, Debug)]
pub enum Method {
    Cbc256,
    Gcm128,
    /// RSA 1.5: not to be accepted.
    Gcm128UnderRsa15,
}

/// An assertion that only the owner of `to` can read.
pub fn encrypted(assertion: &str, to: &X509, method: Method) -> String {
    let public = to.public_key().unwrap();
    let (algorithm, key, cipher_text) = match method {
        Method::Cbc256 => {
            let (key, iv) = ([0x41_u8; 32], [9_u8; 16]);
            let mut crypter = Crypter::new(Cipher::aes_256_cbc(), Mode::Encrypt, &key, Some(&iv)).unwrap();
            let mut out = vec![0; assertion.len() + 32];
            let n = crypter.update(assertion.as_bytes(), &mut out).unwrap();
            let m = crypter.finalize(&mut out[n..]).unwrap();
            ("http://www.w3.org/2001/04/xmlenc#aes256-cbc", key.to_vec(), [iv.as_slice(), &out[..n + m]].concat())
        }
        Method::Gcm128 | Method::Gcm128UnderRsa15 => {
            let (key, nonce, mut tag) = ([0x42_u8; 16], [9_u8; 12], [0_u8; 16]);
            let body =
                encrypt_aead(Cipher::aes_128_gcm(), &key, Some(&nonce), &[], assertion.as_bytes(), &mut tag).unwrap();
            ("http://www.w3.org/2009/xmlenc11#aes128-gcm", key.to_vec(), [nonce.as_slice(), &body, &tag].concat())
        }
    };
    let mut encrypter = Encrypter::new(&public).unwrap();
    let wrapping = if matches!(method, Method::Gcm128UnderRsa15) {
        encrypter.set_rsa_padding(Padding::PKCS1).unwrap();
        "http://www.w3.org/2001/04/xmlenc#rsa-1_5"
    } else {
        encrypter.set_rsa_padding(Padding::PKCS1_OAEP).unwrap();
        "http://www.w3.org/2001/04/xmlenc#rsa-oaep-mgf1p"
    };
    let mut wrapped = vec![0; encrypter.encrypt_len(&key).unwrap()];
    let n = encrypter.encrypt(&key, &mut wrapped).unwrap();
    format!(
        "<saml:EncryptedAssertion xmlns:saml=\"urn:oasis:names:tc:SAML:2.0:assertion\"><xenc:EncryptedData \
         xmlns:xenc=\"http://www.w3.org/2001/04/xmlenc#\" Type=\"http://www.w3.org/2001/04/xmlenc#Element\">\
         <xenc:EncryptionMethod Algorithm=\"{algorithm}\"/><ds:KeyInfo xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\">\
         <xenc:EncryptedKey><xenc:EncryptionMethod Algorithm=\"{wrapping}\"/><xenc:CipherData><xenc:CipherValue>{}\
         </xenc:CipherValue></xenc:CipherData></xenc:EncryptedKey></ds:KeyInfo><xenc:CipherData><xenc:CipherValue>{}\
         </xenc:CipherValue></xenc:CipherData></xenc:EncryptedData></saml:EncryptedAssertion>",
        STANDARD.encode(&wrapped[..n]),
        STANDARD.encode(cipher_text)
    )
}

/// The query of a URL.
pub fn query(location: &str) -> HashMap<String, String> {
    Url::parse(location).unwrap().query_pairs().into_owned().collect()
}
