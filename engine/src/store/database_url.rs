//! `DATABASE_URL` as libpq understands it: `postgres://user:password@host:port/name?sslmode=…&sslrootcert=…`.
//!
//! `sslmode`: `disable`; `allow` and `prefer` (the default) encrypt when the server can, without checking who it is; `require`
//! insists on encryption and checks the server only when `sslrootcert` is given; `verify-ca` and `verify-full` check
//! certificate and host name against `sslrootcert` or the system's authorities. A Unix socket is never encrypted.

use std::path::PathBuf;
use std::str::FromStr;

use sluse_schema::secret::Secret;
use tokio_postgres::config::SslMode;

/// Why a `DATABASE_URL` cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseUrlError {
    #[error("DATABASE_URL must start with postgres:// or postgresql://")]
    Scheme,
    #[error("sslmode={0} in DATABASE_URL is not known: disable, allow, prefer, require, verify-ca or verify-full")]
    SslMode(String),
    #[error("DATABASE_URL is not understood: {0}")]
    Malformed(String),
}

/// How the server's certificate is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verification {
    /// Encrypted or not, the server is taken at its word.
    None,
    /// Certificate and host name are checked; `None`: against the system's authorities.
    Full {
        /// PEM file of authorities.
        root_certificates: Option<PathBuf>,
    },
}

/// A `DATABASE_URL` taken apart.
#[derive(Clone, Debug)]
pub struct DatabaseUrl {
    /// What tokio-postgres connects with; its `Debug` hides the password.
    pub config: tokio_postgres::Config,
    pub verification: Verification,
}

impl DatabaseUrl {
    /// Reads the text.
    ///
    /// # Errors
    /// A [`DatabaseUrlError`] that says what would be right; it never repeats the password.
    pub fn parse(url: &Secret) -> Result<Self, DatabaseUrlError> {
        let text = url.reveal();
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err(DatabaseUrlError::Scheme);
        }
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut ssl_mode, mut root_certificates, mut kept) = ("prefer".to_owned(), None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) =
                url::form_urlencoded::parse(pair.as_bytes()).next().unwrap_or_else(|| ("".into(), "".into()));
            match &*name {
                "sslmode" => ssl_mode = value.into_owned(),
                "sslrootcert" => root_certificates = Some(PathBuf::from(value.into_owned())),
                _ => kept.push(pair),
            }
        }
        let rest = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
        let mut config =
            tokio_postgres::Config::from_str(&rest).map_err(|error| DatabaseUrlError::Malformed(error.to_string()))?;
        let verification = match ssl_mode.as_str() {
            "disable" => {
                config.ssl_mode(SslMode::Disable);
                Verification::None
            }
            "allow" | "prefer" => {
                config.ssl_mode(SslMode::Prefer);
                Verification::None
            }
            "require" => {
                config.ssl_mode(SslMode::Require);
                root_certificates
                    .map_or(Verification::None, |file| Verification::Full { root_certificates: Some(file) })
            }
            "verify-ca" | "verify-full" => {
                config.ssl_mode(SslMode::Require);
                // libpq's name for the system's authorities.
                let root_certificates = root_certificates.filter(|file| file.as_os_str() != "system");
                Verification::Full { root_certificates }
            }
            other => return Err(DatabaseUrlError::SslMode(other.to_owned())),
        };
        Ok(Self { config, verification })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DatabaseUrl, DatabaseUrlError> {
        DatabaseUrl::parse(&Secret::new(text))
    }

    #[test]
    fn a_plain_url_prefers_encryption_and_a_socket_directory_may_stand_in_host() {
        let url = parse("postgres://sluse:pw@db.example:5433/iot").unwrap();
        assert_eq!((url.config.get_ssl_mode(), url.verification), (SslMode::Prefer, Verification::None));
        assert_eq!(url.config.get_ports(), [5433]);
        let url = parse("postgres:///iot?host=/run/postgresql&user=sluse").unwrap();
        assert_eq!(url.config.get_hosts().len(), 1);
        assert_eq!(url.config.get_dbname(), Some("iot"));
    }

    #[test]
    fn sslmode_means_what_it_means_to_libpq() {
        let url = parse("postgresql://h/d?sslmode=require").unwrap();
        assert_eq!((url.config.get_ssl_mode(), url.verification), (SslMode::Require, Verification::None));
        let url = parse("postgresql://h/d?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem&connect_timeout=3").unwrap();
        assert_eq!(url.verification, Verification::Full { root_certificates: Some("/etc/ca.pem".into()) });
        assert_eq!(url.config.get_connect_timeout(), Some(&std::time::Duration::from_secs(3)));
        assert_eq!(parse("postgres://h/d?sslmode=yes").err(), Some(DatabaseUrlError::SslMode("yes".into())));
    }

    #[test]
    fn an_error_never_repeats_the_password() {
        assert_eq!(parse("mysql://root:hunter2@h/d").err(), Some(DatabaseUrlError::Scheme));
        let error = parse("postgres://root:hunter2@h:port/d?nonsense=hunter2").err().unwrap().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
