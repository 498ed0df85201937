//! What is said of log-in providers, and of secrets that everybody knows: neither half a provider nor a published secret is usable.

use sluse_schema::secret::Secret;

use super::meant::ConfigError;
use super::said::Said;
use crate::login::{KombitSettings, OidcSettings};

/// `[kombit]` and `[oidc]`
#[derive(Clone, Debug)]
pub struct LogInConfig {
    /// `None`: not in use.
    pub kombit: Option<KombitSettings>,
    /// `None`: not in use.
    pub oidc: Option<OidcSettings>,
}

/// Shortest secret that signs tokens, in characters.
const SIGNING_SECRET_CHARS_MIN: usize = 16;
/// What stands in OS2iot's sources and in our own examples.
const PUBLISHED: [&str; 4] = ["secretKey-os2iot-secretKey", "SecretKey", "hunter2", "INSERT_KOMBIT_CERT"];
const PUBLISHED_PREFIX: &str = "change-me";

fn is_published(secret: &str) -> bool {
    PUBLISHED.contains(&secret) || secret.starts_with(PUBLISHED_PREFIX)
}

/// A secret that is not one that everybody knows; nothing when nothing was said.
pub(super) fn not_published(key: &'static str, said: &str) -> Result<Option<Secret>, ConfigError> {
    if is_published(said) {
        return Err(ConfigError::invalid(key, "a secret of your own: this one is published"));
    }
    Ok((!said.is_empty()).then(|| Secret::new(said)))
}

/// The same, and long enough to sign with: a token is all that one needs to try a shorter one out.
pub(super) fn signing_secret(key: &'static str, said: &str) -> Result<Option<Secret>, ConfigError> {
    let secret = not_published(key, said)?;
    if secret.as_ref().is_some_and(|secret| secret.reveal().chars().count() < SIGNING_SECRET_CHARS_MIN) {
        return Err(ConfigError::invalid(key, format!("a text of {SIGNING_SECRET_CHARS_MIN} characters or more")));
    }
    Ok(secret)
}

pub(super) fn meant(said: &Said) -> Result<LogInConfig, ConfigError> {
    Ok(LogInConfig { kombit: kombit(said)?, oidc: oidc(said)? })
}

/// The reference's own defaults name KOMBIT's test system and a placeholder: an entry point alone is no configuration.
fn kombit(said: &Said) -> Result<Option<KombitSettings>, ConfigError> {
    let kombit = &said.kombit;
    let certificate = if is_published(kombit.certificate.trim()) { "" } else { kombit.certificate.trim() };
    if certificate.is_empty() && kombit.private_key.is_empty() {
        return Ok(None);
    }
    for (key, text) in [
        ("kombit.entry_point (KOMBIT_ENTRYPOINT)", kombit.entry_point.as_str()),
        ("kombit.certificate (KOMBIT_CERTIFICATEPUBLICKEY)", certificate),
        ("kombit.private_key (KOMBIT_CERTIFICATEPRIVATEKEY)", kombit.private_key.as_str()),
        ("kombit.role_name (KOMBIT_ROLE_NAME)", kombit.role_name.as_str()),
    ] {
        if text.trim().is_empty() {
            return Err(ConfigError::invalid(key, "set: entry point, certificate and private key go together"));
        }
    }
    Ok(Some(KombitSettings {
        entry_point: kombit.entry_point.trim().to_owned(),
        certificate: certificate.to_owned(),
        private_key: Secret::new(kombit.private_key.as_str()),
        own_certificate: kombit.own_certificate.clone(),
        role_name: kombit.role_name.trim().to_owned(),
        issuer: kombit.issuer.clone(),
        backend_base_url: backend_base_url(said),
    }))
}

fn oidc(said: &Said) -> Result<Option<OidcSettings>, ConfigError> {
    let oidc = &said.oidc;
    if oidc.issuer.trim().is_empty() {
        return Ok(None);
    }
    if oidc.client_id.trim().is_empty() {
        return Err(ConfigError::invalid("oidc.client_id", "set, when there is an oidc.issuer"));
    }
    Ok(Some(OidcSettings {
        issuer: oidc.issuer.trim().to_owned(),
        client_id: oidc.client_id.trim().to_owned(),
        client_secret: Secret::new(oidc.client_secret.as_str()),
        role_claim: oidc.role_claim.trim().to_owned(),
        role: oidc.role.clone(),
        backend_base_url: backend_base_url(said),
    }))
}

fn backend_base_url(said: &Said) -> String {
    said.http.backend_base_url.trim().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant_of(change: impl FnOnce(&mut Said)) -> Result<LogInConfig, String> {
        let mut said = Said::default();
        change(&mut said);
        meant(&said).map_err(|error| error.to_string())
    }

    #[test]
    fn a_provider_is_used_when_it_is_whole_and_half_of_one_is_an_error() {
        let nothing = meant_of(|_| ()).unwrap();
        assert!(nothing.kombit.is_none() && nothing.oidc.is_none());
        let as_the_reference_comes = meant_of(|said| {
            said.kombit.entry_point = "https://idp.example.org".into();
            said.kombit.certificate = "INSERT_KOMBIT_CERT".into();
        });
        assert!(as_the_reference_comes.unwrap().kombit.is_none());
        let half = meant_of(|said| said.kombit.private_key = "hunter3".into()).unwrap_err();
        assert!(half.contains("KOMBIT_ENTRYPOINT") && !half.contains("hunter3"), "{half}");
        let whole = meant_of(|said| {
            said.kombit.entry_point = "https://idp.example.org".into();
            said.kombit.certificate = "MII".into();
            said.kombit.private_key = "hunter3".into();
        });
        assert!(whole.unwrap().kombit.is_some());
        assert!(
            meant_of(|said| said.oidc.issuer = "https://idp.example.org".into()).unwrap_err().contains("client_id")
        );
    }

    #[test]
    fn secrets_that_everybody_knows_or_could_guess_are_refused() {
        for bad in ["secretKey-os2iot-secretKey", "change-me-too-to-a-text-of-32-characters-or-more", "too short"] {
            let error = signing_secret("key", bad).unwrap_err().to_string();
            assert!(!error.contains(bad), "{error}");
        }
        assert!(not_published("key", "hunter2").is_err());
        assert!(not_published("key", "").unwrap().is_none());
        assert!(signing_secret("key", &"x".repeat(32)).unwrap().is_some());
    }
}
