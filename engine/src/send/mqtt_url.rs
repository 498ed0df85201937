//! Broker URLs: `mqtt://[user:password@]host[:port]` in clear, `mqtts://…` over TLS (also `tcp://` and `ssl://`, as brokers'
//! manuals write them). What is after the host and port is ignored: MQTT has no path.

use sluse_schema::secret::Secret;
use url::Url;

/// A broker URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BrokerUrl {
    /// Without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) is_tls: bool,
    pub(crate) username: String,
    pub(crate) password: Secret,
}

/// Why a text is no broker URL. Shows nothing of the URL: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BrokerUrlError {
    #[error("the broker's URL is not valid: {0}")]
    Invalid(url::ParseError),
    #[error("a broker's URL begins with mqtt:// or mqtts://, not {0}://")]
    Scheme(String),
    #[error("the broker's URL has no host")]
    Host,
}

impl BrokerUrl {
    /// Reads `text`; the default port is 1883, with TLS 8883.
    pub(crate) fn parse(text: &str) -> Result<Self, BrokerUrlError> {
        let url = Url::parse(text.trim()).map_err(BrokerUrlError::Invalid)?;
        let is_tls = match url.scheme() {
            "mqtt" | "tcp" => false,
            "mqtts" | "ssl" => true,
            other => return Err(BrokerUrlError::Scheme(other.to_owned())),
        };
        // The URL standard leaves hosts of unknown schemes alone, so that `0x7f.1` stays a name: read it as an address here,
        // the way a resolver would.
        let host = match url.host().ok_or(BrokerUrlError::Host)? {
            url::Host::Domain(name) if !name.is_empty() => url::Host::parse(name).map_err(BrokerUrlError::Invalid)?,
            url::Host::Domain(_) => return Err(BrokerUrlError::Host),
            url::Host::Ipv4(v4) => url::Host::Ipv4(v4),
            url::Host::Ipv6(v6) => url::Host::Ipv6(v6),
        };
        let host = match host {
            url::Host::Domain(name) => name,
            url::Host::Ipv4(v4) => v4.to_string(),
            url::Host::Ipv6(v6) => v6.to_string(),
        };
        let decode = |part: &str| percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
        Ok(Self {
            host,
            port: url.port().unwrap_or(if is_tls { 8883 } else { 1883 }),
            is_tls,
            username: decode(url.username()),
            password: Secret::new(decode(url.password().unwrap_or_default())),
        })
    }

    /// Host and port, for messages.
    pub(crate) fn place(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_url_is_taken_apart() {
        let url = BrokerUrl::parse("mqtts://me:p%40w@broker.example").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.is_tls), ("broker.example", 8883, true));
        assert_eq!((url.username.as_str(), url.password.reveal()), ("me", "p@w"));
        assert_eq!(BrokerUrl::parse("mqtt://h:1884/x").unwrap().place(), "h:1884");
        assert_eq!(BrokerUrl::parse("mqtt://[::1]").unwrap().place(), "[::1]:1883");
    }

    #[test]
    fn odd_spellings_of_addresses_become_addresses() {
        for text in ["mqtt://127.1", "mqtt://0x7f000001", "mqtt://2130706433"] {
            assert_eq!(BrokerUrl::parse(text).unwrap().host, "127.0.0.1", "{text}");
        }
    }

    #[test]
    fn what_is_no_broker_url_is_refused_without_showing_it() {
        assert_eq!(BrokerUrl::parse("http://me:secret@h"), Err(BrokerUrlError::Scheme("http".into())));
        for wrong in ["broker", "mqtt://", "mqtt://:secret@"] {
            assert!(!BrokerUrl::parse(wrong).unwrap_err().to_string().contains("secret"), "{wrong}");
        }
    }
}
