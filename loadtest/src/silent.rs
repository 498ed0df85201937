//! Devices that are registered and never transmit: what a large installation's tables hold beside the part that sends just now.
//!
//! Decided here: they are copies of the first registered device, made in the engine's own database by one statement, because a million
//! registrations through the API take most of an hour and nothing about them is measured.

use anyhow::{Context as _, ensure};
use tokio::process::Command;

/// Copies of the oldest device, each with a devEUI of its own and in the same connections.
const COPY: &str = "
WITH first AS (SELECT * FROM iot_device WHERE type = 'LORAWAN' ORDER BY id LIMIT 1),
     made AS (
       INSERT INTO iot_device (application_id, type, name, longitude, latitude, device_eui, settings)
       SELECT first.application_id, first.type, 'Silent ' || n, first.longitude, first.latitude, eui,
              first.settings || jsonb_build_object('deviceEUI', eui,
                'lorawanSettings', first.settings -> 'lorawanSettings' || jsonb_build_object('devEUI', eui))
       FROM first, generate_series(1, :num) AS n, LATERAL (SELECT 'ff' || lpad(to_hex(n), 14, '0') AS eui) AS named
       RETURNING id)
INSERT INTO connection_device (connection_id, device_id)
SELECT c.connection_id, made.id FROM made, first JOIN connection_device c ON c.device_id = first.id;
ANALYZE iot_device, connection_device;";

/// Registers `num` devices in the database that `psql` is led to by these words.
///
/// # Errors
/// `psql` is missing, the database is not to be reached, or there is no device to copy.
pub async fn register(database: &str, num: u32) -> anyhow::Result<()> {
    let mut command = Command::new("psql");
    command.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]);
    command.arg(format!("--dbname={database}")).arg(format!("--set=num={num}")).arg("--file=-");
    command.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("psql cannot be started: install postgresql-client")?;
    if let Some(mut stdin) = child.stdin.take() {
        tokio::io::AsyncWriteExt::write_all(&mut stdin, COPY.as_bytes()).await?;
    }
    let ended = child.wait_with_output().await?;
    ensure!(
        ended.status.success(),
        "silent devices were not registered: {}",
        String::from_utf8_lossy(&ended.stderr).trim()
    );
    Ok(())
}
