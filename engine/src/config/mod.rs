//! Configuration in two phases: what was said (`said`: a file, the environment over it, unknown keys refused), and what it
//! means (`meant`: parsed, checked, with paths). `defaults.toml` is what `sluse config` prints.

mod duration;
mod env;
mod login;
mod meant;
mod said;
mod tls;

pub use login::LogInConfig;
pub use meant::{
    AdminConfig, AuditConfig, ChirpstackConfig, Config, ConfigError, DatabaseConfig, DecoderConfig, DeviceConfig,
    Durability, HttpConfig, LogConfig, LogFormat, MailConfig, MailTls, MetricsConfig, SenderLimit, TargetConfig,
    TracingConfig,
};
pub use said::{DEFAULTS_TOML, Said};

use std::path::Path;

/// Reads file and environment and makes sense of them. Without `file`, only the environment is read.
///
/// # Errors
/// A [`ConfigError`] that names the key and what would be right.
pub fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
    Config::of_said(said::read(file, std::env::vars().collect())?, file)
}
