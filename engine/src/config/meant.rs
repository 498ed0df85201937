//! What the configuration means: addresses parsed, keys read or made, contradictions refused. Secrets are `Secret`s here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::value::{Dict, Value};
use ipnet::IpNet;
use sluse_http::TlsListen;
use sluse_schema::secret::Secret;

use super::duration::parse_duration;
use super::login::{self, LogInConfig};
use super::said::{self, Said};
use crate::redis::RedisConfig;
use crate::store::cipher::SECRET_KEY_CHARS_MIN;

/// How long a token may be good for.
const TOKEN_LIFETIME: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(10)..=Duration::from_secs(366 * 24 * 3600);

/// Why the configuration cannot be used. Names the key; never shows a value that may be secret.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("there is no configuration file {}", .0.display())]
    NoFile(PathBuf),
    #[error("the environment variable {0} is not known: see `sluse config`")]
    UnknownVariable(String),
    #[error("{key} must be a number")]
    NotANumber { key: String },
    #[error("{0}")]
    Said(String),
    #[error("{key} must be {expected}")]
    Invalid {
        key: &'static str,
        /// What would be right.
        expected: String,
    },
    #[error("several nodes share a Kafka log, so {0} has to be set, on every node")]
    NeededForKafka(&'static str),
    #[error("kafka.properties.{0} must be a text, a number or a boolean")]
    KafkaProperty(String),
}

impl ConfigError {
    pub(super) fn invalid(key: &'static str, expected: impl Into<String>) -> Self {
        Self::Invalid { key, expected: expected.into() }
    }

    /// The first error without the value it is about.
    pub(super) fn of_figment(error: &figment::Error) -> Self {
        use figment::error::Kind;
        let key = error.path.join(".");
        let text = match &error.kind {
            Kind::UnknownField(field, expected) => {
                let place = if key.is_empty() { String::new() } else { format!(" in [{key}]") };
                format!("unknown key {field}{place}: known are {}", expected.join(", "))
            }
            Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) => format!("{key} must be {expected}"),
            // A syntax error, with its line.
            Kind::Message(message) => format!("the configuration file cannot be read: {message}"),
            other => format!("{key}: {other}"),
        };
        Self::Said(text)
    }
}

/// Everything, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it was read from.
    pub file: Option<PathBuf>,
    pub data_dir: PathBuf,
    /// `None`: made up and kept in the data directory.
    pub node_id: Option<String>,
    /// `None`: made up and kept in the data directory.
    pub secret_key: Option<Secret>,
    pub http: HttpConfig,
    pub database: DatabaseConfig,
    pub log: LogConfig,
    /// `None`: the embedded log.
    pub kafka: Option<KafkaConfig>,
    pub chirpstack: ChirpstackConfig,
    /// Where Sigfox's REST API is.
    pub sigfox_api_url: String,
    /// The host of our own MQTT broker, as devices are told.
    pub mqtt_broker_hostname: String,
    pub device: DeviceConfig,
    pub decoder: DecoderConfig,
    pub target: TargetConfig,
    pub metrics: MetricsConfig,
    pub redis: Option<RedisConfig>,
    /// `None`: senders may be heard as often as they like.
    pub sender_limit: Option<SenderLimit>,
    /// `None`: no mail is sent.
    pub mail: Option<MailConfig>,
    pub audit: AuditConfig,
    pub admin: AdminConfig,
    pub log_in: LogInConfig,
    pub tracing: TracingConfig,
}

/// `[http]`
#[derive(Clone, Debug)]
pub struct HttpConfig {
    pub listen: SocketAddr,
    /// `None`: made up and kept in the data directory.
    pub jwt_secret: Option<Secret>,
    pub trusted_proxies: Vec<IpNet>,
    /// Without a slash at its end.
    pub frontend_base_url: String,
    pub token_lifetime: Duration,
    /// Without a slash at its end.
    pub backend_base_url: String,
    pub tls: Option<TlsListen>,
    /// `None`: one per core.
    pub num_workers: Option<usize>,
}

/// `[database]`
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    /// `None`: a private PostgreSQL.
    pub url: Option<Secret>,
    pub num_connections_max: usize,
}

/// When an append counts as accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After it is on disk.
    Fsync,
    /// After it is written.
    Written,
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct LogConfig {
    pub num_partitions: u32,
    pub durability: Durability,
    pub retention: Duration,
    pub retention_bytes_max: u64,
    pub free_bytes_reserve: u64,
    /// A log that may be left with what it holds.
    pub leave: String,
}

/// `[kafka]`, and the brokers of `[log]`.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    pub brokers: String,
    pub prefix: String,
    /// `None`: as many as there are brokers, up to three.
    pub replication: Option<u16>,
    /// librdkafka's properties; may be secret.
    pub properties: BTreeMap<String, Secret>,
}

/// `[chirpstack]`
#[derive(Clone, Debug)]
pub struct ChirpstackConfig {
    /// May hold a password.
    pub mqtt_url: Option<Secret>,
    /// Where its API is, and the key for it; `None`: radio devices are rows alone.
    pub api: Option<(String, Secret)>,
    pub ca_certificates: Option<PathBuf>,
    /// For the broker: certificate and key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    pub receive_maximum: u16,
    /// Days that statistics of devices and gateways go back.
    pub stats_days: u32,
}

/// `[device]`
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    pub window_length: usize,
    /// Keeps by age instead of by number.
    pub window_age: Option<Duration>,
    pub passivate_after: Duration,
}

/// `[decoder]`
#[derive(Clone, Debug)]
pub struct DecoderConfig {
    /// `None`: one per core.
    pub num_workers: Option<usize>,
    pub timeout: Duration,
    pub memory_bytes_max: u64,
}

/// `[target]`
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// `false`, `true` or networks: what the egress rule reads.
    pub allow_private: String,
    pub ca_certificates: Option<PathBuf>,
}

/// `[metrics]`
#[derive(Clone, Debug)]
pub struct MetricsConfig {
    pub listen: Option<SocketAddr>,
}

/// How mail is protected on its way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailTls {
    /// From the first byte.
    Implicit,
    /// After `STARTTLS`, which the server must offer.
    StartTls,
    /// After `STARTTLS` if it is offered.
    Opportunistic,
    /// Not at all.
    None,
}

/// `[mail]`
#[derive(Clone, Debug)]
pub struct MailConfig {
    pub host: String,
    pub port: u16,
    /// User and password.
    pub credentials: Option<(String, Secret)>,
    pub from: String,
    pub tls: MailTls,
    pub ca_certificates: Option<PathBuf>,
}

/// `[audit]`. `None`: for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    pub change_log_days: Option<u32>,
    pub system_log_days: Option<u32>,
}

/// `[limits]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderLimit {
    /// One more may be heard after so long.
    pub interval: Duration,
    /// How many at once.
    pub burst: u32,
}

/// `[admin]`
#[derive(Clone, Debug)]
pub struct AdminConfig {
    pub email: String,
    pub password: Option<Secret>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// `[tracing]`
#[derive(Clone, Debug)]
pub struct TracingConfig {
    pub filter: String,
    pub format: LogFormat,
}

impl Config {
    /// Makes sense of what was said.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the key.
    pub fn of_said(said: Said, file: Option<&Path>) -> Result<Self, ConfigError> {
        let secret = |text: &str| (!text.is_empty()).then(|| Secret::new(text));
        let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        if !said.log.kafka_brokers.is_empty() {
            for (name, is_set) in [
                ("SLUSE_SECRET_KEY", !said.secret_key.is_empty()),
                ("SLUSE_JWT_SECRET", !said.http.jwt_secret.is_empty()),
                ("SLUSE_NODE_ID", !said.node_id.is_empty()),
                ("DATABASE_URL", !said.database.url.is_empty()),
            ] {
                if !is_set {
                    return Err(ConfigError::NeededForKafka(name));
                }
            }
        }
        if !said.secret_key.is_empty() && said.secret_key.chars().count() < SECRET_KEY_CHARS_MIN {
            let expected = format!("a text of {SECRET_KEY_CHARS_MIN} characters or more");
            return Err(ConfigError::invalid("secret_key (SLUSE_SECRET_KEY)", expected));
        }
        let log_in = login::meant(&said)?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !said.node_id.chars().all(is_name) || said.node_id.len() > 64 {
            return Err(ConfigError::invalid(
                "node_id (SLUSE_NODE_ID)",
                "at most 64 letters, digits, dots, hyphens and underscores",
            ));
        }
        Ok(Self {
            file: file.map(Path::to_path_buf),
            data_dir: PathBuf::from(&said.data_dir),
            node_id: (!said.node_id.is_empty()).then_some(said.node_id),
            secret_key: login::not_published("secret_key (SLUSE_SECRET_KEY)", &said.secret_key)?,
            http: http(&said.http)?,
            database: DatabaseConfig {
                url: secret(&said.database.url),
                num_connections_max: at_least("database.num_connections_max", said.database.num_connections_max, 4)?,
            },
            log: log(&said.log)?,
            kafka: kafka(&said.log.kafka_brokers, &said.kafka)?,
            chirpstack: ChirpstackConfig {
                mqtt_url: secret(&said.chirpstack.mqtt_url),
                api: match (said.chirpstack.api_url.as_str(), said.chirpstack.api_key.as_str()) {
                    ("", _) => None,
                    (_, "") => {
                        let expected = "set when chirpstack.api_url is: a key made in ChirpStack";
                        return Err(ConfigError::invalid("chirpstack.api_key (CHIRPSTACK_API_KEY)", expected));
                    }
                    (url, key) => Some((url.to_owned(), Secret::new(key))),
                },
                ca_certificates: path(&said.chirpstack.ca_certificates),
                client_certificate: match (
                    path(&said.chirpstack.client_certificate_file),
                    path(&said.chirpstack.client_key_file),
                ) {
                    (None, None) => None,
                    (Some(certificate), Some(key)) => Some((certificate, key)),
                    _ => {
                        let expected = "set together with chirpstack.client_certificate_file, or neither";
                        return Err(ConfigError::invalid("chirpstack.client_key_file", expected));
                    }
                },
                receive_maximum: at_least("chirpstack.receive_maximum", said.chirpstack.receive_maximum, 1)?,
                stats_days: at_least("chirpstack.stats_days", said.chirpstack.stats_days, 1)?.min(366),
            },
            sigfox_api_url: said.sigfox.api_url,
            mqtt_broker_hostname: said.mqtt_broker.hostname,
            device: DeviceConfig {
                window_length: at_least("device.window_length", said.device.window_length, 1)?,
                window_age: (said.device.window_seconds > 0).then(|| Duration::from_secs(said.device.window_seconds)),
                passivate_after: Duration::from_secs(said.device.passivate_after_seconds),
            },
            decoder: DecoderConfig {
                num_workers: (said.decoder.num_workers > 0).then_some(said.decoder.num_workers),
                timeout: Duration::from_millis(at_least("decoder.timeout_ms", said.decoder.timeout_ms, 10)?),
                memory_bytes_max: at_least("decoder.memory_bytes_max", said.decoder.memory_bytes_max, 4 << 20)?,
            },
            target: TargetConfig {
                allow_private: said.target.allow_private,
                ca_certificates: path(&said.target.ca_certificates),
            },
            metrics: MetricsConfig {
                listen: match said.metrics.listen.as_str() {
                    "" => None,
                    text => Some(address("metrics.listen (SLUSE_METRICS_LISTEN)", text)?),
                },
            },
            redis: secret(&said.redis.url)
                .map(|url| RedisConfig { url, ca_certificates: path(&said.redis.ca_certificates) }),
            sender_limit: sender_limit(&said.limits)?,
            log_in,
            mail: mail(&said.mail)?,
            audit: AuditConfig {
                change_log_days: (said.audit.change_log_days > 0).then_some(said.audit.change_log_days),
                system_log_days: (said.audit.system_log_days > 0).then_some(said.audit.system_log_days),
            },
            admin: AdminConfig {
                password: login::not_published("admin.password (SLUSE_ADMIN_PASSWORD)", &said.admin.password)?,
                email: said.admin.email,
            },
            tracing: TracingConfig {
                filter: said.tracing.filter,
                format: match said.tracing.format.as_str() {
                    "text" => LogFormat::Text,
                    "json" => LogFormat::Json,
                    _ => return Err(ConfigError::invalid("tracing.format", "text or json")),
                },
            },
        })
    }
}

fn http(said: &said::HttpSaid) -> Result<HttpConfig, ConfigError> {
    let trusted_proxies = said
        .trusted_proxies
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .map(|text| text.parse::<IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from)))
        .collect::<Result<_, _>>()
        .map_err(|_| {
            ConfigError::invalid(
                "http.trusted_proxies (SLUSE_TRUSTED_PROXIES)",
                "addresses or networks like 10.0.0.0/8, separated by commas",
            )
        })?;
    Ok(HttpConfig {
        listen: address("http.listen (SLUSE_HTTP_LISTEN)", &said.listen)?,
        jwt_secret: login::signing_secret("http.jwt_secret (SLUSE_JWT_SECRET)", &said.jwt_secret)?,
        tls: super::tls::meant(said)?,
        trusted_proxies,
        token_lifetime: parse_duration(&said.token_lifetime).filter(|d| TOKEN_LIFETIME.contains(d)).ok_or_else(
            || {
                ConfigError::invalid(
                    "http.token_lifetime (JWT_EXPIRESIN)",
                    "a duration like 9h, 30m or 1d, between ten seconds and a year",
                )
            },
        )?,
        frontend_base_url: base_url("http.frontend_base_url (FRONTEND_BASEURL)", &said.frontend_base_url)?,
        backend_base_url: base_url("http.backend_base_url (BACKEND_BASEURL)", &said.backend_base_url)?,
        num_workers: (said.num_workers > 0).then_some(said.num_workers),
    })
}

fn mail(said: &said::MailSaid) -> Result<Option<MailConfig>, ConfigError> {
    if said.host.is_empty() {
        return Ok(None);
    }
    if said.from.is_empty() {
        return Err(ConfigError::invalid("mail.from (EMAIL_FROM)", "the address that mails come from"));
    }
    let credentials = (!said.user.is_empty()).then(|| (said.user.clone(), Secret::new(said.password.as_str())));
    Ok(Some(MailConfig {
        tls: match said.tls.as_str() {
            "auto" if said.port == 465 => MailTls::Implicit,
            // A password is never sent in the clear because somebody took the offer of TLS out.
            "auto" if credentials.is_some() => MailTls::StartTls,
            "auto" => MailTls::Opportunistic,
            "implicit" => MailTls::Implicit,
            "starttls" => MailTls::StartTls,
            "none" => MailTls::None,
            _ => return Err(ConfigError::invalid("mail.tls", "auto, implicit, starttls or none")),
        },
        host: said.host.clone(),
        port: said.port,
        credentials,
        from: said.from.clone(),
        ca_certificates: (!said.ca_certificates.is_empty()).then(|| PathBuf::from(&said.ca_certificates)),
    }))
}

fn log(said: &said::LogSaid) -> Result<LogConfig, ConfigError> {
    if !(1..=1024).contains(&said.num_partitions) {
        return Err(ConfigError::invalid("log.num_partitions", "between 1 and 1024"));
    }
    Ok(LogConfig {
        num_partitions: said.num_partitions,
        durability: match said.durability.as_str() {
            "fsync" => Durability::Fsync,
            "written" => Durability::Written,
            _ => return Err(ConfigError::invalid("log.durability", "fsync or written")),
        },
        retention: Duration::from_secs(3600 * u64::from(at_least("log.retention_hours", said.retention_hours, 1)?)),
        retention_bytes_max: at_least("log.retention_bytes_max", said.retention_bytes_max, 1 << 20)?,
        free_bytes_reserve: said.free_bytes_reserve,
        leave: said.leave.clone(),
    })
}

fn sender_limit(said: &said::LimitsSaid) -> Result<Option<SenderLimit>, ConfigError> {
    let burst = at_least("limits.sender_burst", said.sender_burst, 1)?;
    let interval = |per_minute| Duration::from_secs(60) / per_minute;
    Ok((said.sender_per_minute > 0).then(|| SenderLimit { interval: interval(said.sender_per_minute), burst }))
}

fn kafka(brokers: &str, said: &said::KafkaSaid) -> Result<Option<KafkaConfig>, ConfigError> {
    if brokers.is_empty() {
        return Ok(None);
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !said.prefix.chars().all(is_name) || said.prefix.len() > 100 {
        return Err(ConfigError::invalid("kafka.prefix", "at most 100 letters, digits, dots, hyphens and underscores"));
    }
    let mut properties = BTreeMap::new();
    flatten("", &said.properties, &mut properties)?;
    Ok(Some(KafkaConfig {
        brokers: brokers.to_owned(),
        prefix: said.prefix.clone(),
        replication: (said.replication > 0).then_some(said.replication),
        properties,
    }))
}

/// Dots in a property's name make tables of it, in TOML as in a variable's name: they become one name again.
fn flatten(path: &str, table: &Dict, into: &mut BTreeMap<String, Secret>) -> Result<(), ConfigError> {
    for (key, value) in table {
        let name = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let text = match value {
            Value::Dict(_, table) => {
                flatten(&name, table, into)?;
                continue;
            }
            Value::String(_, text) => text.clone(),
            Value::Bool(_, value) => value.to_string(),
            Value::Num(_, number) => match (number.to_u128(), number.to_i128()) {
                (Some(number), _) => number.to_string(),
                (_, Some(number)) => number.to_string(),
                _ => return Err(ConfigError::KafkaProperty(name)),
            },
            _ => return Err(ConfigError::KafkaProperty(name)),
        };
        into.insert(name, Secret::new(text));
    }
    Ok(())
}

fn at_least<T: PartialOrd + std::fmt::Display>(key: &'static str, value: T, least: T) -> Result<T, ConfigError> {
    if value < least { Err(ConfigError::invalid(key, format!("at least {least}"))) } else { Ok(value) }
}

/// Where something is on the web: `http` or `https`, a host, perhaps a port and a path; nothing behind it.
fn base_url(key: &'static str, text: &str) -> Result<String, ConfigError> {
    let is_base = |url: &url::Url| {
        matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    };
    match url::Url::parse(text.trim()) {
        Ok(url) if is_base(&url) => Ok(text.trim().trim_end_matches('/').to_owned()),
        _ => Err(ConfigError::invalid(key, "a URL like https://sluse.example.org")),
    }
}

/// An address to listen on; `localhost:3000` is understood too.
pub(super) fn address(key: &'static str, text: &str) -> Result<SocketAddr, ConfigError> {
    let text = text.trim();
    let numeric = text.replace("localhost:", "127.0.0.1:");
    numeric.parse().map_err(|_| ConfigError::invalid(key, "an address and a port like 127.0.0.1:3000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(change: impl FnOnce(&mut Said)) -> Result<Config, String> {
        let mut said = Said::default();
        change(&mut said);
        Config::of_said(said, None).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_a_configuration() {
        let config = meant(|_| ()).unwrap();
        assert_eq!(config.http.listen.to_string(), "127.0.0.1:3000");
        assert_eq!((config.log.num_partitions, config.log.durability), (8, Durability::Fsync));
        assert_eq!(config.log.retention, Duration::from_secs(7 * 24 * 3600));
        assert!(config.database.url.is_none() && config.secret_key.is_none() && config.metrics.listen.is_none());
    }

    #[test]
    fn a_client_certificate_has_its_key() {
        let with = |certificate: &str, key: &str| {
            let mut said = Said::default();
            said.chirpstack.client_certificate_file = certificate.into();
            said.chirpstack.client_key_file = key.into();
            Config::of_said(said, None).map(|config| config.chirpstack.client_certificate)
        };
        assert_eq!(with("", "").unwrap(), None);
        assert_eq!(with("c.pem", "k.pem").unwrap(), Some(("c.pem".into(), "k.pem".into())));
        for (certificate, key) in [("c.pem", ""), ("", "k.pem")] {
            let error = with(certificate, key).unwrap_err().to_string();
            assert!(error.contains("chirpstack.client_key_file"), "{error}");
        }
    }

    #[test]
    fn kafka_needs_what_all_nodes_share_and_takes_properties_with_dots() {
        let with_kafka = |change: fn(&mut Said)| {
            meant(|said| {
                said.log.kafka_brokers = "k1:9092,k2:9092".into();
                said.secret_key = "k".repeat(32);
                said.http.jwt_secret = "j".repeat(32);
                said.node_id = "node-1".into();
                said.database.url = "postgres://h/d".into();
                change(said);
            })
        };
        for (change, name) in [
            ((|said| said.secret_key.clear()) as fn(&mut Said), "SLUSE_SECRET_KEY"),
            (|said| said.http.jwt_secret.clear(), "SLUSE_JWT_SECRET"),
            (|said| said.node_id.clear(), "SLUSE_NODE_ID"),
            (|said| said.database.url.clear(), "DATABASE_URL"),
            (|said| said.kafka.prefix = "a/b".into(), "kafka.prefix"),
        ] {
            let error = with_kafka(change).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
        let nested = Dict::from([("sasl".to_owned(), Dict::from([("password".to_owned(), "hunter2".into())]).into())]);
        let config = with_kafka(|_| ()).unwrap().kafka.unwrap();
        assert_eq!(
            (config.brokers.as_str(), config.replication, config.properties.len()),
            ("k1:9092,k2:9092", None, 0)
        );
        let mut properties = BTreeMap::new();
        flatten("", &nested, &mut properties).unwrap();
        assert_eq!(properties.get("sasl.password").map(Secret::reveal), Some("hunter2"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_its_name() {
        type Change = fn(&mut Said);
        let cases: [(Change, &str); 11] = [
            (|said| said.chirpstack.api_url = "http://h:8080".into(), "CHIRPSTACK_API_KEY"),
            (|said| said.http.listen = "3000".into(), "http.listen"),
            (|said| said.secret_key = "too short".into(), "SLUSE_SECRET_KEY"),
            (|said| said.http.trusted_proxies = "10.0.0.0/99".into(), "SLUSE_TRUSTED_PROXIES"),
            (|said| said.log.num_partitions = 0, "log.num_partitions"),
            (|said| said.log.durability = "maybe".into(), "log.durability"),
            (|said| said.node_id = "a b".into(), "SLUSE_NODE_ID"),
            (|said| said.http.token_lifetime = "soon".into(), "JWT_EXPIRESIN"),
            (|said| said.mail.host = "mail.example.org".into(), "EMAIL_FROM"),
            (
                |said| (said.mail.host, said.mail.from, said.mail.tls) = ("h".into(), "a@b.dk".into(), "yes".into()),
                "mail.tls",
            ),
            (|said| said.log.kafka_brokers = "k:9092".into(), "SLUSE_SECRET_KEY"),
        ];
        for (change, name) in cases {
            let error = meant(change).unwrap_err();
            assert!(error.contains(name), "{error}");
            assert!(!error.contains("too short"), "{error}");
        }
    }

    #[test]
    fn mail_goes_over_tls_where_a_password_does() {
        let tls = |port, user: &str| {
            let config = meant(|said| {
                (said.mail.host, said.mail.from) = ("mail.example.org".into(), "a@example.org".into());
                (said.mail.port, said.mail.user) = (port, user.into());
            });
            config.unwrap().mail.unwrap().tls
        };
        assert_eq!(tls(465, ""), MailTls::Implicit);
        assert_eq!(tls(587, "rita"), MailTls::StartTls);
        assert_eq!(tls(25, ""), MailTls::Opportunistic);
        assert!(meant(|_| ()).unwrap().mail.is_none());
    }

    #[test]
    fn proxies_may_be_addresses_or_networks() {
        let config = meant(|said| said.http.trusted_proxies = "10.0.0.0/8, 192.168.1.5,::1".into()).unwrap();
        assert_eq!(config.http.trusted_proxies.len(), 3);
    }
}
