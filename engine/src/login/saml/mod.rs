//! KOMBIT's log-in: SAML 2.0 web browser SSO as OIOSAML has it, with Sluse as the service provider.
//!
//! A response goes through these hands, and each refuses on its own: [`shape`] (the one assertion, signed as SAML signs and in no
//! other way, before any cryptography), [`decrypt`] where it is encrypted, samael's xmlsec (every signature in the document, by the
//! provider's configured keys, SHA-256 or longer), and [`assertion`], which reads nothing but the bytes that were digested for the
//! signature. So a second, forged assertion beside the signed one is never even parsed for its content.
//!
//! What samael (0.0.22) does and does not do for us: its xmlsec wrapper verifies and hands out the digested bytes; whether
//! conditions, audience, encryption and algorithms are as they must be is not left to it (`assertion.rs`, `decrypt.rs` say why).

mod assertion;
mod decrypt;
mod request;
mod shape;
mod xml;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;
use samael::crypto::{AllowedSignatureAlgorithm, CertificateDer, Crypto, CryptoProvider, ReduceMode};
use sluse_schema::port::{LogInError, SamlProvider, Vouched};
use sluse_schema::secret::Secret;
use url::Url;

use self::request::OurUrls;
use self::xml::{ASSERTION, PROTOCOL, refused};
use super::{LogInSettingsError, pem};

/// Largest response, in base64. One with an encrypted assertion and a long list of privileges has some 20 kB.
const RESPONSE_BYTES_MAX: usize = 512 * 1024;
/// No SHA-1, no DSA.
const ALGORITHMS: [AllowedSignatureAlgorithm; 6] = [
    AllowedSignatureAlgorithm::RsaSha256,
    AllowedSignatureAlgorithm::RsaSha384,
    AllowedSignatureAlgorithm::RsaSha512,
    AllowedSignatureAlgorithm::EcdsaSha256,
    AllowedSignatureAlgorithm::EcdsaSha384,
    AllowedSignatureAlgorithm::EcdsaSha512,
];

/// What the operator says of the provider. Certificates and keys in any form that [`super::pem`] reads.
#[derive(Clone, Debug)]
pub struct KombitSettings {
    /// `KOMBIT_ENTRYPOINT`: where browsers log in, and out.
    pub entry_point: String,
    /// `KOMBIT_CERTIFICATEPUBLICKEY`: the provider's certificate or certificates.
    pub certificate: String,
    /// `KOMBIT_CERTIFICATEPRIVATEKEY`: our key; signs requests, decrypts assertions.
    pub private_key: Secret,
    /// Our certificate, for the metadata; may be empty.
    pub own_certificate: String,
    /// `KOMBIT_ROLE_NAME`: some privilege must contain it.
    pub role_name: String,
    /// The provider's entity id; empty: not compared.
    pub issuer: String,
    /// `BACKEND_BASEURL`.
    pub backend_base_url: String,
}

/// The provider and our keys, ready for use.
#[derive(Clone)]
pub struct Kombit {
    entry_point: Url,
    provider_keys: Vec<CertificateDer>,
    key: PKey<Private>,
    role_name: String,
    issuer: Option<String>,
    ours: OurUrls,
    metadata: String,
}

impl std::fmt::Debug for Kombit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kombit({})", self.entry_point)
    }
}

impl Kombit {
    /// Reads keys and certificates.
    ///
    /// # Errors
    /// Names the setting that cannot be used.
    pub fn new(settings: &KombitSettings) -> Result<Self, LogInSettingsError> {
        let pem_error = |setting| move |source| LogInSettingsError::Pem { setting, source };
        let entry_point = Url::parse(&settings.entry_point)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.fragment().is_none())
            .ok_or(LogInSettingsError::Invalid { setting: "KOMBIT_ENTRYPOINT", expected: "an http or https URL" })?;
        let certificates =
            pem::certificates(&settings.certificate).map_err(pem_error("KOMBIT_CERTIFICATEPUBLICKEY"))?;
        let unusable = |_| pem_error("KOMBIT_CERTIFICATEPUBLICKEY")(pem::PemError::NotACertificate);
        let provider_keys: Vec<CertificateDer> = certificates
            .iter()
            .map(|certificate| certificate.to_der().map(CertificateDer::from))
            .collect::<Result<_, _>>()
            .map_err(unusable)?;
        let key = pem::private_key(settings.private_key.reveal()).map_err(pem_error("KOMBIT_CERTIFICATEPRIVATEKEY"))?;
        let own_certificate = own_certificate(&settings.own_certificate, &key)?;
        let ours = OurUrls::below(&settings.backend_base_url);
        let metadata = request::metadata(&ours, &key, own_certificate.as_ref()).map_err(|_| {
            LogInSettingsError::Invalid { setting: "KOMBIT_CERTIFICATEPRIVATEKEY", expected: "a usable RSA key" }
        })?;
        let issuer = settings.issuer.trim();
        keep_xmlsec_quiet();
        Ok(Self {
            entry_point,
            provider_keys,
            key,
            role_name: settings.role_name.clone(),
            issuer: (!issuer.is_empty()).then(|| issuer.to_owned()),
            ours,
            metadata,
        })
    }

    /// The work of [`SamlProvider::check_response`]: some milliseconds of arithmetic, no waiting.
    fn check(&self, saml_response: &str, attempt: &str, now: DateTime<Utc>) -> Result<Vouched, LogInError> {
        let response = decode(saml_response)?;
        let document = xml::parse(&response)?;
        let envelope = shape::response(&document)?;
        if envelope.destination.as_deref() != Some(self.ours.log_in.as_str()) {
            return Err(refused(format!("it is not meant for {} (BACKEND_BASEURL)", self.ours.log_in)));
        }
        if envelope.in_response_to.as_deref() != Some(attempt) {
            return Err(refused("the response answers another request"));
        }
        if let (Some(said), Some(wanted)) = (&envelope.issuer, &self.issuer)
            && said != wanted
        {
            return Err(refused("the response is another issuer's"));
        }
        let signed = if envelope.is_encrypted {
            if envelope.is_signed {
                self.verified(&response)?;
            }
            let clear = decrypt::assertion(&document, &self.key)?;
            shape::assertion(&xml::parse(&clear)?)?;
            self.verified(&clear)?
        } else {
            self.verified(&response)?
        };
        let signed = xml::parse(&signed)?;
        let root = signed.root_element();
        let assertion = if root.has_tag_name((PROTOCOL, "Response")) {
            xml::only_child(root, ASSERTION, "Assertion")?
        } else if root.has_tag_name((ASSERTION, "Assertion")) {
            root
        } else {
            return Err(refused("the signature is over something else"));
        };
        let expected = assertion::Expected {
            issuer: self.issuer.as_deref().or(envelope.issuer.as_deref()),
            audience: &self.ours.metadata,
            recipient: &self.ours.log_in,
            in_response_to: attempt,
            now,
        };
        let subject = assertion::check(assertion, &expected)?;
        Ok(Vouched {
            name: assertion::common_name(&subject.name_id),
            has_role: subject.privileges.iter().any(|privilege| privilege.contains(&self.role_name)),
            name_id: subject.name_id,
        })
    }

    /// The bytes that the signatures in `xml` are over, when all of them are the provider's. With two (of the assertion and of the
    /// response around it) the response's, which the assertion is part of.
    fn verified(&self, xml: &str) -> Result<String, LogInError> {
        let mode = ReduceMode::PreDigest;
        Crypto::reduce_xml_to_signed_with_allowed_algorithms(xml, &self.provider_keys, mode, Some(&ALGORITHMS)).map_err(
            |error| {
                tracing::debug!(%error, "a SAML signature was not verified");
                refused("a signature is not the provider's (KOMBIT_CERTIFICATEPUBLICKEY), or not by SHA-256 or longer")
            },
        )
    }
}

/// By default xmlsec writes what it refuses to standard error, past our log: whoever sends nonsense would fill it.
#[allow(unsafe_code)]
fn keep_xmlsec_quiet() {
    unsafe extern "C" {
        fn xmlSecErrorsDefaultCallbackEnableOutput(enabled: std::ffi::c_int);
    }
    // SAFETY: xmlsec/errors.h declares it so; it sets a flag that only the default callback reads.
    unsafe { xmlSecErrorsDefaultCallbackEnableOutput(0) }
}

fn own_certificate(said: &str, key: &PKey<Private>) -> Result<Option<X509>, LogInSettingsError> {
    const SETTING: &str = "kombit.own_certificate";
    if said.trim().is_empty() {
        return Ok(None);
    }
    let found = pem::certificates(said).map_err(|source| LogInSettingsError::Pem { setting: SETTING, source })?;
    let certificate = found.into_iter().next();
    let fits = certificate.as_ref().is_some_and(|own| own.public_key().is_ok_and(|public| public.public_eq(key)));
    if fits {
        Ok(certificate)
    } else {
        Err(LogInSettingsError::Invalid {
            setting: SETTING,
            expected: "the certificate of KOMBIT_CERTIFICATEPRIVATEKEY",
        })
    }
}

fn decode(saml_response: &str) -> Result<String, LogInError> {
    if saml_response.len() > RESPONSE_BYTES_MAX {
        return Err(refused("the response is too large"));
    }
    let packed: String = saml_response.split_whitespace().collect();
    let bytes = STANDARD.decode(packed).map_err(|_| refused("the response is not base64"))?;
    String::from_utf8(bytes).map_err(|_| refused("the response is not UTF-8"))
}

#[async_trait]
impl SamlProvider for Kombit {
    fn log_in_url(&self, attempt: &str, now: DateTime<Utc>) -> Result<String, LogInError> {
        let request = request::authn_request(&self.ours, &self.entry_point, attempt, now);
        request::signed_redirect(&self.entry_point, &request, &self.key)
    }

    async fn check_response(
        &self,
        saml_response: &str,
        attempt: &str,
        now: DateTime<Utc>,
    ) -> Result<Vouched, LogInError> {
        let (this, saml_response, attempt) = (self.clone(), saml_response.to_owned(), attempt.to_owned());
        tokio::task::spawn_blocking(move || this.check(&saml_response, &attempt, now))
            .await
            .unwrap_or_else(|_| Err(refused("the check did not end well")))
    }

    fn log_out_url(&self, name_id: &str, now: DateTime<Utc>) -> Result<String, LogInError> {
        let id = format!("_{}", uuid::Uuid::new_v4().simple());
        let request = request::logout_request(&self.ours, &self.entry_point, &id, name_id, now);
        request::signed_redirect(&self.entry_point, &request, &self.key)
    }

    fn metadata(&self) -> String {
        self.metadata.clone()
    }
}
