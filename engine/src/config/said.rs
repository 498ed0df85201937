//! What file and environment say, as they say it. Every key is here once, with its default; a key that is not is an error.

use std::path::Path;

use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use figment::value::Dict;
use serde::{Deserialize, Serialize};

use super::env;
use super::meant::ConfigError;

/// What `sluse config` prints. A test holds it against [`Said`]: every key, with its default.
pub const DEFAULTS_TOML: &str = include_str!("defaults.toml");

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($key:ident: $ty:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $(pub $key: $ty,)* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }

        /// Names keys only: values may be secret.
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name { $($key),* }))
            }
        }
    };
}

section! {
    /// The whole file.
    Said {
        data_dir: String = "data".to_owned(),
        node_id: String = String::new(),
        secret_key: String = String::new(),
        http: HttpSaid = HttpSaid::default(),
        database: DatabaseSaid = DatabaseSaid::default(),
        log: LogSaid = LogSaid::default(),
        kafka: KafkaSaid = KafkaSaid::default(),
        chirpstack: ChirpstackSaid = ChirpstackSaid::default(),
        sigfox: SigfoxSaid = SigfoxSaid::default(),
        mqtt_broker: MqttBrokerSaid = MqttBrokerSaid::default(),
        device: DeviceSaid = DeviceSaid::default(),
        decoder: DecoderSaid = DecoderSaid::default(),
        target: TargetSaid = TargetSaid::default(),
        metrics: MetricsSaid = MetricsSaid::default(),
        redis: RedisSaid = RedisSaid::default(),
        limits: LimitsSaid = LimitsSaid::default(),
        mail: MailSaid = MailSaid::default(),
        audit: AuditSaid = AuditSaid::default(),
        admin: AdminSaid = AdminSaid::default(),
        kombit: KombitSaid = KombitSaid::default(),
        oidc: OidcSaid = OidcSaid::default(),
        tracing: TracingSaid = TracingSaid::default(),
    }
}
section! {
    /// `[http]`
    HttpSaid {
        listen: String = "127.0.0.1:3000".to_owned(),
        jwt_secret: String = String::new(),
        trusted_proxies: String = String::new(),
        frontend_base_url: String = "http://localhost:8081".to_owned(),
        token_lifetime: String = "9h".to_owned(),
        backend_base_url: String = "http://localhost:3000".to_owned(),
        tls_listen: String = String::new(),
        tls_certificate: String = String::new(),
        tls_key: String = String::new(),
        num_workers: usize = 0,
    }
}
section! {
    /// `[database]`
    DatabaseSaid {
        url: String = String::new(),
        num_connections_max: usize = 16,
    }
}
section! {
    /// `[log]`
    LogSaid {
        kafka_brokers: String = String::new(),
        num_partitions: u32 = 8,
        durability: String = "fsync".to_owned(),
        retention_hours: u32 = 168,
        retention_bytes_max: u64 = 20 << 30,
        free_bytes_reserve: u64 = 1 << 30,
        leave: String = String::new(),
    }
}
section! {
    /// `[kafka]`
    KafkaSaid {
        prefix: String = String::new(),
        replication: u16 = 0,
        properties: Dict = Dict::new(),
    }
}
section! {
    /// `[chirpstack]`
    ChirpstackSaid {
        mqtt_url: String = String::new(),
        api_url: String = String::new(),
        api_key: String = String::new(),
        ca_certificates: String = String::new(),
        client_certificate_file: String = String::new(),
        client_key_file: String = String::new(),
        receive_maximum: u16 = 4096,
        stats_days: u32 = 29,
    }
}
section! {
    /// `[sigfox]`
    SigfoxSaid {
        api_url: String = "https://api.sigfox.com/v2".to_owned(),
    }
}
section! {
    /// `[mqtt_broker]`
    MqttBrokerSaid {
        hostname: String = "localhost".to_owned(),
    }
}
section! {
    /// `[device]`
    DeviceSaid {
        window_length: usize = 20,
        window_seconds: u64 = 0,
        passivate_after_seconds: u64 = 600,
    }
}
section! {
    /// `[decoder]`
    DecoderSaid {
        num_workers: usize = 0,
        timeout_ms: u64 = 500,
        memory_bytes_max: u64 = 8 << 20,
    }
}
section! {
    /// `[target]`
    TargetSaid {
        allow_private: String = "false".to_owned(),
        ca_certificates: String = String::new(),
    }
}
section! {
    /// `[metrics]`
    MetricsSaid {
        listen: String = String::new(),
    }
}
section! {
    /// `[limits]`
    LimitsSaid {
        sender_per_minute: u32 = 0,
        sender_burst: u32 = 60,
    }
}
section! {
    /// `[redis]`
    RedisSaid {
        url: String = String::new(),
        ca_certificates: String = String::new(),
    }
}
section! {
    /// `[mail]`
    MailSaid {
        host: String = String::new(),
        port: u16 = 587,
        user: String = String::new(),
        password: String = String::new(),
        from: String = String::new(),
        tls: String = "auto".to_owned(),
        ca_certificates: String = String::new(),
    }
}
section! {
    /// `[audit]`
    AuditSaid {
        change_log_days: u32 = 730,
        system_log_days: u32 = 30,
    }
}
section! {
    /// `[admin]`
    AdminSaid {
        email: String = "global-admin@os2iot.dk".to_owned(),
        password: String = String::new(),
    }
}
section! {
    /// `[kombit]`
    KombitSaid {
        entry_point: String = String::new(),
        certificate: String = String::new(),
        private_key: String = String::new(),
        own_certificate: String = String::new(),
        role_name: String = "http://os2iot.dk/roles/usersystemrole/adgang/".to_owned(),
        issuer: String = String::new(),
    }
}
section! {
    /// `[oidc]`
    OidcSaid {
        issuer: String = String::new(),
        client_id: String = String::new(),
        client_secret: String = String::new(),
        role_claim: String = String::new(),
        role: String = String::new(),
    }
}
section! {
    /// `[tracing]`
    TracingSaid {
        filter: String = "info".to_owned(),
        format: String = "text".to_owned(),
    }
}

/// Defaults, the file over them, the environment over both.
pub(super) fn read(file: Option<&Path>, vars: Vec<(String, String)>) -> Result<Said, ConfigError> {
    let mut figment = Figment::from(Serialized::defaults(Said::default()));
    if let Some(file) = file {
        if !file.is_file() {
            return Err(ConfigError::NoFile(file.to_path_buf()));
        }
        figment = figment.merge(Toml::file_exact(file));
    }
    figment = env::merge(figment, vars)?;
    figment.extract().map_err(|error| ConfigError::of_figment(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str, vars: &[(&str, &str)]) -> Result<Said, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sluse.toml");
        std::fs::write(&file, text).unwrap();
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        read(Some(&file), vars).map_err(|error| error.to_string())
    }

    /// Golden: what `sluse config` prints is what an empty configuration means, key by key.
    #[test]
    fn the_printed_defaults_are_the_defaults_and_name_every_key() {
        let uncommented: String = DEFAULTS_TOML
            .lines()
            .map(|line| {
                let key = line.strip_prefix("# ").and_then(|rest| rest.split_once(" = "));
                let is_key = key.is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
                format!("{}\n", if is_key { &line[2..] } else { line })
            })
            .collect();
        let printed: figment::value::Value = Figment::from(Toml::string(&uncommented)).extract().unwrap();
        let meant: figment::value::Value = Figment::from(Serialized::defaults(Said::default())).extract().unwrap();
        let plain = |value: &figment::value::Value| serde_json::to_value(value).unwrap();
        assert_eq!(plain(&printed), plain(&meant));
        assert_eq!(read_text(DEFAULTS_TOML, &[]).unwrap(), Said::default());
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = read_text("[http]\nlissten = \"x\"\n", &[]).unwrap_err();
        assert!(error.contains("lissten"), "{error}");
        let error = read_text("", &[("SLUSE__HTTP__LISSTEN", "x")]).unwrap_err();
        assert!(error.contains("lissten"), "{error}");
        let error = read_text("", &[("SLUSE_HTTP_LISSTEN", "x")]).unwrap_err();
        assert!(error.contains("SLUSE_HTTP_LISSTEN"), "{error}");
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
        let text = "data_dir = \"a\"\n[http]\nlisten = \"0.0.0.0:1\"\n[device]\nwindow_length = 7\n";
        let vars = [("SLUSE_HTTP_LISTEN", "0.0.0.0:2"), ("DATABASE_URL", "postgres://h/d"), ("PATH", "/bin")];
        let said = read_text(text, &vars).unwrap();
        assert_eq!((said.data_dir.as_str(), said.http.listen.as_str()), ("a", "0.0.0.0:2"));
        assert_eq!((said.device.window_length, said.database.url.as_str()), (7, "postgres://h/d"));
    }

    #[test]
    fn a_password_of_digits_stays_text_and_a_number_becomes_one() {
        let vars =
            [("SLUSE_ADMIN_PASSWORD", "0123456"), ("SLUSE__LOG__NUM_PARTITIONS", "16"), ("METADATA_SAVED_COUNT", "50")];
        let said = read_text("", &vars).unwrap();
        assert_eq!((said.admin.password.as_str(), said.log.num_partitions), ("0123456", 16));
        assert_eq!(said.device.window_length, 50);
    }

    #[test]
    fn an_empty_variable_counts_as_not_set() {
        assert_eq!(read_text("", &[("SLUSE_HTTP_LISTEN", ""), ("DATABASE_URL", " ")]).unwrap(), Said::default());
    }

    #[test]
    fn neither_an_error_nor_debug_output_shows_a_value() {
        let error = read_text("", &[("SLUSE__LOG__NUM_PARTITIONS", "hunter2")]).unwrap_err();
        assert!(error.contains("log.num_partitions") && !error.contains("hunter2"), "{error}");
        let said = read_text("secret_key = \"hunter2\"", &[]).unwrap();
        assert!(!format!("{said:?}").contains("hunter2"));
    }
}
