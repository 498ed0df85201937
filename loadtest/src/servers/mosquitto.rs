//! Mosquitto, the broker between ChirpStack and Sluse.

use std::fs;
use std::path::Path;

use super::{Program, find_program, is_root};

/// Its configuration, with the reason for each line.
const CONF: &str = "\
# Written by sluse-loadtest at every start.
per_listener_settings false
allow_anonymous true
# By default Mosquitto drops what waits for a subscriber beyond 1000 messages. What it acknowledged must wait instead.
max_queued_messages 0
max_queued_bytes 0
# By default 20 unacknowledged messages per client: far too few for a durable consumer.
max_inflight_messages 0
set_tcp_nodelay true
persistence true
autosave_interval 30
log_dest stderr
log_type error
log_type warning
";

/// A broker with its files below `dir`.
pub fn mosquitto(dir: &Path, port: u16) -> anyhow::Result<Program> {
    fs::create_dir_all(dir)?;
    let conf = dir.join("mosquitto.conf");
    let user = if is_root() { "user root\n" } else { "" };
    let place = dir.canonicalize()?;
    fs::write(&conf, format!("{CONF}{user}listener {port} 127.0.0.1\npersistence_location {}/\n", place.display()))?;
    Ok(Program {
        name: "mosquitto",
        path: find_program(&["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/opt/homebrew/sbin/mosquitto"]),
        args: vec!["-c".to_owned(), conf.to_string_lossy().into_owned()],
        env: Vec::new(),
        port,
        log: dir.join("mosquitto.log"),
        stop_signal: "TERM",
        run_as: None,
    })
}
