//! Environment variables: the names that stay, and `SLUSE__SECTION__KEY` for every other key.
//!
//! An empty value counts as not set (compose files pass them on). A name that begins with `SLUSE_` and is none of ours is an
//! error: it is a misspelt setting that would otherwise silently not hold.

use figment::Figment;
use figment::providers::Serialized;
use figment::value::{Num, Value};

use super::meant::ConfigError;

/// Names that stay, with the key that each sets.
const NAMES: &[(&str, &str)] = &[
    ("SLUSE_DATA_DIR", "data_dir"),
    ("SLUSE_NODE_ID", "node_id"),
    ("SLUSE_SECRET_KEY", "secret_key"),
    ("SLUSE_HTTP_LISTEN", "http.listen"),
    ("SLUSE_JWT_SECRET", "http.jwt_secret"),
    ("SLUSE_TRUSTED_PROXIES", "http.trusted_proxies"),
    ("FRONTEND_BASEURL", "http.frontend_base_url"),
    ("JWT_EXPIRESIN", "http.token_lifetime"),
    ("BACKEND_BASEURL", "http.backend_base_url"),
    ("DATABASE_URL", "database.url"),
    ("KAFKA_BROKERS", "log.kafka_brokers"),
    ("CHIRPSTACK_MQTT_URL", "chirpstack.mqtt_url"),
    ("SLUSE_SIGFOX_API_URL", "sigfox.api_url"),
    ("MQTT_BROKER_HOSTNAME", "mqtt_broker.hostname"),
    ("METADATA_SAVED_COUNT", "device.window_length"),
    ("SLUSE_ALLOW_PRIVATE_TARGETS", "target.allow_private"),
    ("SLUSE_METRICS_LISTEN", "metrics.listen"),
    ("REDIS_URL", "redis.url"),
    ("EMAIL_HOST", "mail.host"),
    ("EMAIL_PORT", "mail.port"),
    ("EMAIL_USER", "mail.user"),
    ("EMAIL_PASS", "mail.password"),
    ("EMAIL_FROM", "mail.from"),
    ("SLUSE_ADMIN_EMAIL", "admin.email"),
    ("SLUSE_ADMIN_PASSWORD", "admin.password"),
    ("KOMBIT_ENTRYPOINT", "kombit.entry_point"),
    ("KOMBIT_CERTIFICATEPUBLICKEY", "kombit.certificate"),
    ("KOMBIT_CERTIFICATEPRIVATEKEY", "kombit.private_key"),
    ("KOMBIT_ROLE_NAME", "kombit.role_name"),
];
const FILTER: (&str, &str) = ("SLUSE_LOG", "tracing.filter");
/// Read elsewhere: which file to read.
const CONFIG_FILE: &str = "SLUSE_CONFIG";

/// Puts the variables over what `figment` has.
pub(super) fn merge(mut figment: Figment, vars: Vec<(String, String)>) -> Result<Figment, ConfigError> {
    let defaults = figment.clone();
    for (name, text) in vars {
        let known = NAMES.iter().chain([&FILTER]).find(|(known, _)| *known == name);
        let key = match known {
            Some((_, key)) => (*key).to_owned(),
            None if name == CONFIG_FILE => continue,
            None => match name.strip_prefix("SLUSE__") {
                Some(rest) => rest.to_ascii_lowercase().replace("__", "."),
                None if name.starts_with("SLUSE_") => return Err(ConfigError::UnknownVariable(name)),
                None => continue,
            },
        };
        let text = text.trim();
        if text.is_empty() {
            continue;
        }
        // Text stays text even when it looks like a number: passwords do.
        let value = match defaults.find_value(&key) {
            Ok(Value::Num(..)) => match text.parse::<u64>() {
                Ok(number) => Value::from(Num::from(number)),
                Err(_) => return Err(ConfigError::NotANumber { key }),
            },
            _ => Value::from(text.to_owned()),
        };
        figment = figment.merge(Serialized::default(&key, value));
    }
    Ok(figment)
}
