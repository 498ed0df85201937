//! What we say to the provider: requests in a signed redirect (bindings, 3.4.4.1: RSA-SHA256 over the query as it is sent), and our
//! metadata. samael writes requests too, but lets a name's `&` through unescaped and signs whatever query the entry point has.

use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, SecondsFormat, Utc};
use flate2::Compression;
use flate2::write::DeflateEncoder;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::sign::Signer;
use openssl::x509::X509;
use sluse_schema::port::LogInError;
use url::Url;

use super::xml::{ASSERTION, PROTOCOL, SIGNATURE, escape};

const RSA_SHA256: &str = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256";
const POST: &str = "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST";
const REDIRECT: &str = "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect";
const X509_SUBJECT: &str = "urn:oasis:names:tc:SAML:1.1:nameid-format:X509SubjectName";

/// The addresses below `<BACKEND_BASEURL>/api/v1/auth/kombit` that the provider knows us by.
#[derive(Clone, Debug)]
pub(super) struct OurUrls {
    /// Also our entity id.
    pub(super) metadata: String,
    /// The assertion consumer service.
    pub(super) log_in: String,
    pub(super) log_out: String,
}

impl OurUrls {
    pub(super) fn below(backend_base_url: &str) -> Self {
        let base = format!("{}/api/v1/auth/kombit", backend_base_url.trim_end_matches('/'));
        Self {
            metadata: format!("{base}/metadata"),
            log_in: format!("{base}/login/callback"),
            log_out: format!("{base}/logout/callback"),
        }
    }
}

pub(super) fn authn_request(ours: &OurUrls, destination: &Url, id: &str, now: DateTime<Utc>) -> String {
    format!(
        "<samlp:AuthnRequest xmlns:samlp=\"{PROTOCOL}\" xmlns:saml=\"{ASSERTION}\" ID=\"{}\" Version=\"2.0\" \
         IssueInstant=\"{}\" Destination=\"{}\" ProtocolBinding=\"{POST}\" AssertionConsumerServiceURL=\"{}\">\
         <saml:Issuer>{}</saml:Issuer></samlp:AuthnRequest>",
        escape(id),
        stamp(now),
        escape(destination.as_str()),
        escape(&ours.log_in),
        escape(&ours.metadata)
    )
}

/// Without a session index: it ends every session of this name at the provider.
pub(super) fn logout_request(ours: &OurUrls, destination: &Url, id: &str, name_id: &str, now: DateTime<Utc>) -> String {
    format!(
        "<samlp:LogoutRequest xmlns:samlp=\"{PROTOCOL}\" xmlns:saml=\"{ASSERTION}\" ID=\"{}\" Version=\"2.0\" \
         IssueInstant=\"{}\" Destination=\"{}\"><saml:Issuer>{}</saml:Issuer><saml:NameID Format=\"{X509_SUBJECT}\">{}\
         </saml:NameID></samlp:LogoutRequest>",
        escape(id),
        stamp(now),
        escape(destination.as_str()),
        escape(&ours.metadata),
        escape(name_id)
    )
}

fn stamp(now: DateTime<Utc>) -> String {
    now.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// `destination` with the request and its signature in the query.
pub(super) fn signed_redirect(destination: &Url, request: &str, key: &PKey<Private>) -> Result<String, LogInError> {
    let unsigned = |what: &str| LogInError::Unavailable(format!("a request could not be signed: {what}"));
    let mut deflater = DeflateEncoder::new(Vec::new(), Compression::default());
    let deflated = deflater.write_all(request.as_bytes()).and_then(|()| deflater.finish());
    let packed = STANDARD.encode(deflated.map_err(|error| unsigned(&error.to_string()))?);
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("SAMLRequest", &packed).append_pair("SigAlg", RSA_SHA256);
    let signed = query.finish();
    let signature = Signer::new(MessageDigest::sha256(), key)
        .and_then(|mut signer| signer.sign_oneshot_to_vec(signed.as_bytes()))
        .map_err(|error| unsigned(&error.to_string()))?;
    let mut query = url::form_urlencoded::Serializer::new(signed);
    query.append_pair("Signature", &STANDARD.encode(signature));
    let joint = if destination.query().is_some() { '&' } else { '?' };
    Ok(format!("{destination}{joint}{}", query.finish()))
}

/// Our metadata. Without a certificate the keys stand in it bare, which SAML allows; some providers want a certificate.
pub(super) fn metadata(ours: &OurUrls, key: &PKey<Private>, certificate: Option<&X509>) -> Result<String, LogInError> {
    let unusable = |error: openssl::error::ErrorStack| LogInError::Unavailable(format!("our own key: {error}"));
    let key_info = match certificate {
        Some(certificate) => format!(
            "<ds:X509Data><ds:X509Certificate>{}</ds:X509Certificate></ds:X509Data>",
            STANDARD.encode(certificate.to_der().map_err(unusable)?)
        ),
        None => {
            let rsa = key.rsa().map_err(unusable)?;
            format!(
                "<ds:KeyValue><ds:RSAKeyValue><ds:Modulus>{}</ds:Modulus><ds:Exponent>{}</ds:Exponent></ds:RSAKeyValue>\
                 </ds:KeyValue>",
                STANDARD.encode(rsa.n().to_vec()),
                STANDARD.encode(rsa.e().to_vec())
            )
        }
    };
    let key_info = format!("<ds:KeyInfo xmlns:ds=\"{SIGNATURE}\">{key_info}</ds:KeyInfo>");
    let methods: String = [
        "http://www.w3.org/2009/xmlenc11#aes256-gcm",
        "http://www.w3.org/2009/xmlenc11#aes128-gcm",
        "http://www.w3.org/2001/04/xmlenc#aes256-cbc",
        "http://www.w3.org/2001/04/xmlenc#aes128-cbc",
        "http://www.w3.org/2001/04/xmlenc#rsa-oaep-mgf1p",
    ]
    .iter()
    .map(|method| format!("<md:EncryptionMethod Algorithm=\"{method}\"/>"))
    .collect();
    Ok(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<md:EntityDescriptor \
         xmlns:md=\"urn:oasis:names:tc:SAML:2.0:metadata\" entityID=\"{}\"><md:SPSSODescriptor AuthnRequestsSigned=\"true\" \
         WantAssertionsSigned=\"true\" protocolSupportEnumeration=\"{PROTOCOL}\"><md:KeyDescriptor use=\"signing\">{key_info}\
         </md:KeyDescriptor><md:KeyDescriptor use=\"encryption\">{key_info}{methods}</md:KeyDescriptor>\
         <md:SingleLogoutService Binding=\"{REDIRECT}\" Location=\"{}\"/><md:NameIDFormat>{X509_SUBJECT}</md:NameIDFormat>\
         <md:AssertionConsumerService index=\"0\" isDefault=\"true\" Binding=\"{POST}\" Location=\"{}\"/>\
         </md:SPSSODescriptor></md:EntityDescriptor>\n",
        escape(&ours.metadata),
        escape(&ours.log_out),
        escape(&ours.log_in)
    ))
}
