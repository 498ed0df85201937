//! What is said of the TLS listener: address, certificate and key go together.

use std::path::PathBuf;

use sluse_http::TlsListen;

use super::meant::{self, ConfigError};
use super::said::HttpSaid;

pub(super) fn meant(said: &HttpSaid) -> Result<Option<TlsListen>, ConfigError> {
    if said.tls_listen.is_empty() {
        return Ok(None);
    }
    for (key, path) in [("http.tls_certificate", &said.tls_certificate), ("http.tls_key", &said.tls_key)] {
        if path.is_empty() {
            return Err(ConfigError::invalid(key, "the path of a PEM file, when http.tls_listen is set"));
        }
    }
    Ok(Some(TlsListen {
        listen: meant::address("http.tls_listen", &said.tls_listen)?,
        certificate: PathBuf::from(&said.tls_certificate),
        key: PathBuf::from(&said.tls_key),
    }))
}
