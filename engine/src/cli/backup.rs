//! `sluse backup`: database, configuration and keys in one directory; and what is not in it, said plainly.
//!
//! `database.dump` (pg_dump's custom format), `sluse.toml` (the configuration file, if one was used), `secret-key`,
//! `jwt-secret`, `backup.json`. Made under another name and renamed, so that half a backup is never taken for one.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use sluse_schema::secret::Secret;

use super::database::{Database, runtime};
use crate::config::Config;
use crate::data_dir::{JWT_SECRET_FILE, SECRET_KEY_FILE, write_private};

pub(super) const DUMP: &str = "database.dump";
pub(super) const MANIFEST: &str = "backup.json";
pub(super) const CONFIGURATION: &str = "sluse.toml";

/// What a backup says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub sluse_version: String,
    pub made_at: String,
    pub num_partitions: u32,
    /// The log that positions in the database count in; backups of before do not say.
    #[serde(default)]
    pub log: Option<String>,
}

const WHAT_IS_MISSING: &str = "\
The log is not in the backup. Uplinks that were accepted but not yet delivered when it was made stand in the log only (in
<data_dir>/log, or in Kafka). After a restore beside the same Kafka, targets go on from where they stood when the backup was made;
after one without that log they are not delivered, and rewinding reaches back to the restore at the earliest. To keep the log in
<data_dir>/log too, stop sluse and copy the data directory as a whole.
The keys are in the backup: whoever has it can read every secret in it.";

/// Makes a backup; `sluse serve` may run meanwhile.
pub fn backup(config: &Config, directory: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(!directory.exists(), "{} exists already: name a new directory", directory.display());
    let name = directory.file_name().ok_or_else(|| anyhow::anyhow!("{} names no directory", directory.display()))?;
    let mut new_name = name.to_owned();
    new_name.push(".new");
    let new = directory.with_file_name(new_name);
    if new.exists() {
        fs::remove_dir_all(&new)?;
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&new)?;
    let log = runtime()?.block_on(dump(config, &new))?;
    for (file, configured) in
        [(SECRET_KEY_FILE, config.secret_key.as_ref()), (JWT_SECRET_FILE, config.http.jwt_secret.as_ref())]
    {
        let text = match configured {
            Some(key) => format!("{}\n", key.reveal()),
            None => fs::read_to_string(config.data_dir.join(file))
                .map_err(|error| anyhow::anyhow!("{file} cannot be read: {error}"))?,
        };
        write_private(&new.join(file), text.as_bytes())?;
    }
    if let Some(file) = &config.file {
        write_private(&new.join(CONFIGURATION), &fs::read(file)?)?;
    }
    let manifest = Manifest {
        sluse_version: env!("CARGO_PKG_VERSION").to_owned(),
        made_at: chrono::Utc::now().to_rfc3339(),
        num_partitions: config.log.num_partitions,
        log,
    };
    write_private(&new.join(MANIFEST), serde_json::to_string_pretty(&manifest)?.as_bytes())?;
    fs::rename(&new, directory)?;
    println!("{} holds the database, the configuration and the keys.\n{WHAT_IS_MISSING}", directory.display());
    Ok(())
}

/// Saves the database, and says which log its positions count in.
async fn dump(config: &Config, directory: &Path) -> anyhow::Result<Option<String>> {
    let database = Database::open(config).await?;
    let done = dump_from(&database, directory).await;
    database.close().await;
    done
}

async fn dump_from(database: &Database, directory: &Path) -> anyhow::Result<Option<String>> {
    let pool = super::database::pool(&database.url)?;
    let log = crate::store::log_in_use::log_in_use(&pool).await?;
    let program = database.binaries()?.program("pg_dump");
    let mut command = client(&program, &database.url)?;
    command.args(["--format=custom", "--no-owner", "--no-privileges"]).arg("--file").arg(directory.join(DUMP));
    run(command).await?;
    Ok(log)
}

/// A PostgreSQL program that connects to this URL; the password goes through the environment, not the list of processes.
pub(super) fn client(program: &PathBuf, url: &Secret) -> anyhow::Result<Command> {
    let mut command = Command::new(program);
    let parsed = crate::store::database_url::DatabaseUrl::parse(url)?;
    let mut text = url.reveal().to_owned();
    if let Some(password) = parsed.config.get_password() {
        command.env("PGPASSWORD", std::ffi::OsStr::new(std::str::from_utf8(password)?));
        text = without_password(&text);
    }
    command.arg("--dbname").arg(text);
    Ok(command)
}

/// Cuts `:password` out of `scheme://user:password@…`, and `password=…` out of the query.
fn without_password(url: &str) -> String {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let base = match (base.find("://"), base.rfind('@')) {
        (Some(start), Some(at)) if start + 3 <= at => {
            let user = base[start + 3..at].split(':').next().unwrap_or("");
            format!("{}{user}{}", &base[..start + 3], &base[at..])
        }
        _ => base.to_owned(),
    };
    let kept: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("password=")).collect();
    if kept.is_empty() { base } else { format!("{base}?{}", kept.join("&")) }
}

pub(super) async fn run(mut command: Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = tokio::task::spawn_blocking(move || command.output())
        .await?
        .map_err(|error| anyhow::anyhow!("{program} cannot be started: {error}"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{program} failed: {}", words.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_stands_in_no_list_of_processes() {
        let url = Secret::new("postgres://sluse:hunt%40er2@h:5433/d?sslmode=require&password=x");
        let command = client(&PathBuf::from("pg_dump"), &url).unwrap();
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        assert_eq!(args, ["--dbname", "postgres://sluse@h:5433/d?sslmode=require"]);
    }
}
