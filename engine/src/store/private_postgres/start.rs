//! Start and stop of the private PostgreSQL as its users see them.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sluse_schema::secret::Secret;
use tokio::time::Instant;
use tokio_postgres::NoTls;

use super::binaries::{Binaries, find_binaries};
use super::child::{self, Postmaster};
use super::cluster::{Paths, RunAs};

/// Recovery after a crash reads up to `max_wal_size` of log: generous.
const START_TIMEOUT: Duration = Duration::from_secs(300);
/// A server that ends this often before it ever answered will not answer.
const NUM_EXITS_MAX: u32 = 3;
const USER: &str = "sluse";
const DATABASE: &str = "sluse";

/// Why there is no private PostgreSQL. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PrivatePostgresError {
    #[error(
        "no PostgreSQL is installed on this machine: install it (Debian, Ubuntu: apt-get install postgresql), or set \
         DATABASE_URL to a server elsewhere"
    )]
    NotInstalled,
    #[error(
        "the data in {} was written by PostgreSQL {written_by}, installed here is {installed}: install PostgreSQL \
         {written_by} (Debian, Ubuntu: apt-get install postgresql-{written_by}), or there make a `sluse backup` and here a \
         `sluse restore` into an empty data directory", data.display()
    )]
    OtherVersion { data: PathBuf, written_by: u32, installed: String },
    #[error(
        "user {user} runs PostgreSQL (it refuses root) and cannot get through {}: allow it (chmod o+x), or put SLUSE_DATA_DIR \
         somewhere else", barrier.display()
    )]
    Barrier { user: String, barrier: PathBuf },
    #[error("the private PostgreSQL could not be set up in {}: {reason}", data.display())]
    Setup { data: PathBuf, reason: String },
    #[error("the private PostgreSQL does not start: {0}")]
    DoesNotStart(String),
}

/// A running private PostgreSQL; dropping it stops it, which blocks. Prefer [`PrivatePostgres::stop`].
#[derive(Debug)]
pub struct PrivatePostgres {
    postmaster: Postmaster,
    paths: Paths,
    binaries: Binaries,
}

impl PrivatePostgres {
    /// Makes the cluster if there is none, stops what an earlier `sluse` left running, starts the server, waits until it
    /// answers. The caller holds the lock of the data directory.
    ///
    /// # Errors
    /// A [`PrivatePostgresError`] that says what to do.
    pub async fn start(data_dir: &Path) -> Result<Self, PrivatePostgresError> {
        let failed = |reason: String| PrivatePostgresError::Setup { data: data_dir.to_path_buf(), reason };
        let paths = Paths::new(data_dir).map_err(|error| failed(error.to_string()))?;
        let binaries = choose(&paths, find_binaries())?;
        let run_as = RunAs::choose().map_err(|error| failed(error.to_string()))?;
        paths.prepare(run_as.as_ref()).map_err(|error| failed(error.to_string()))?;
        if let Some(user) = &run_as
            && let Some(barrier) = paths.barrier(user)
        {
            return Err(PrivatePostgresError::Barrier { user: user.user.clone(), barrier });
        }
        if !paths.data.exists() {
            let (paths, binaries, run_as) = (paths.clone(), binaries.clone(), run_as.clone());
            tokio::task::spawn_blocking(move || init(&paths, &binaries, run_as.as_ref()))
                .await
                .map_err(|error| failed(error.to_string()))?
                .map_err(failed)?;
        }
        let postmaster = Postmaster::start(&binaries, &paths, run_as).map_err(|error| failed(error.to_string()))?;
        let postgres = Self { postmaster, paths, binaries };
        postgres.wait_until_it_answers().await?;
        tracing::info!(major = postgres.binaries.major, data = %postgres.paths.data.display(), "the private PostgreSQL runs");
        Ok(postgres)
    }

    /// Where it is, as `DATABASE_URL` would say it.
    pub fn url(&self) -> Secret {
        url_of(&self.paths, DATABASE)
    }

    /// Its programs, for `pg_dump`.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The URL of a private PostgreSQL that another process (`sluse serve`) runs in this data directory.
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn url_of_running(data_dir: &Path) -> io::Result<Secret> {
        Ok(url_of(&Paths::new(data_dir)?, DATABASE))
    }

    /// The server's process, while there is one.
    pub fn pid(&self) -> Option<i32> {
        self.postmaster.pid()
    }

    /// Stops it; returns whether that was clean. At most half a minute.
    pub async fn stop(self) -> bool {
        let postmaster = self.postmaster;
        let is_clean = tokio::task::spawn_blocking(move || postmaster.stop()).await.unwrap_or(false);
        if !is_clean {
            tracing::warn!("the private PostgreSQL had to be stopped by force, its next start recovers from its log");
        }
        is_clean
    }

    async fn wait_until_it_answers(&self) -> Result<(), PrivatePostgresError> {
        let give_up_at = Instant::now() + START_TIMEOUT;
        loop {
            let last = match ensure_database(&self.paths).await {
                Ok(()) => return Ok(()),
                Err(error) => crate::store::error::describe(&error),
            };
            if self.postmaster.num_exits() >= NUM_EXITS_MAX || Instant::now() >= give_up_at {
                let words = self.paths.last_words();
                let reason = if words.is_empty() { last } else { words };
                return Err(PrivatePostgresError::DoesNotStart(reason));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn url_of(paths: &Paths, database: &str) -> Secret {
    let host: String = url::form_urlencoded::byte_serialize(paths.socket_dir.as_os_str().as_encoded_bytes()).collect();
    // form encoding writes a space as `+`, which libpq would take as a plus
    Secret::new(format!("postgres:///{database}?host={}&user={USER}", host.replace('+', "%20")))
}

/// The programs of the version that wrote the cluster, or the newest ones for a new cluster.
fn choose(paths: &Paths, installed: Vec<Binaries>) -> Result<Binaries, PrivatePostgresError> {
    let written_by = paths
        .written_by()
        .map_err(|error| PrivatePostgresError::Setup { data: paths.data.clone(), reason: error.to_string() })?;
    let versions = installed.iter().map(|binaries| binaries.major.to_string()).collect::<Vec<_>>().join(", ");
    match written_by {
        Some(major) => installed.into_iter().find(|binaries| binaries.major == major).ok_or_else(|| {
            let installed = if versions.is_empty() { "none".to_owned() } else { versions };
            PrivatePostgresError::OtherVersion { data: paths.data.clone(), written_by: major, installed }
        }),
        None => installed.into_iter().next().ok_or(PrivatePostgresError::NotInstalled),
    }
}

/// Makes the cluster beside its place and renames it, so that it is whole or not there.
fn init(paths: &Paths, binaries: &Binaries, run_as: Option<&RunAs>) -> Result<(), String> {
    let new = paths.root.join("data.new");
    if new.exists() {
        std::fs::remove_dir_all(&new).map_err(|error| error.to_string())?;
    }
    tracing::info!(data = %paths.data.display(), major = binaries.major, "making a private PostgreSQL cluster");
    let mut reason = String::new();
    // A minimal system may lack C.UTF-8; C is everywhere.
    for locale in ["C.UTF-8", "C"] {
        let mut command = Command::new(binaries.program("initdb"));
        command.arg("-D").arg(&new).args([
            "-U",
            USER,
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-instructions",
            "--data-checksums",
        ]);
        command.arg(format!("--locale={locale}"));
        child::prepare(&mut command, paths, run_as);
        let output = command.output().map_err(|error| error.to_string())?;
        if output.status.success() {
            return std::fs::rename(&new, &paths.data).map_err(|error| error.to_string());
        }
        reason = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " | ");
        // initdb cleans up after itself, but not when it was killed
        let _ = std::fs::remove_dir_all(&new);
    }
    Err(format!("initdb failed: {reason}"))
}

/// Connects, and makes our database if the cluster is new.
async fn ensure_database(paths: &Paths) -> Result<(), tokio_postgres::Error> {
    let config: tokio_postgres::Config = url_of(paths, "postgres").reveal().parse()?;
    let (client, connection) = config.connect(NoTls).await?;
    let driving = tokio::spawn(connection);
    let made = async {
        let found = client.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&DATABASE]).await?;
        if found.is_none() {
            client.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await?;
        }
        Ok(())
    }
    .await;
    drop(client);
    driving.abort();
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written_by(version: &str) -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path()).unwrap();
        std::fs::create_dir_all(&paths.data).unwrap();
        std::fs::write(paths.data.join("PG_VERSION"), format!("{version}\n")).unwrap();
        (dir, paths)
    }

    fn installed(major: u32) -> Binaries {
        Binaries { dir: "/usr/lib/postgresql".into(), major }
    }

    #[test]
    fn data_of_another_version_is_refused_with_the_package_to_install() {
        let (_dir, paths) = written_by("13");
        let error = choose(&paths, vec![installed(16), installed(15)]).unwrap_err().to_string();
        assert!(error.contains("written by PostgreSQL 13, installed here is 16, 15"), "{error}");
        assert!(error.contains("apt-get install postgresql-13"), "{error}");
    }

    #[test]
    fn the_version_that_wrote_the_data_is_chosen_among_several() {
        let (_dir, paths) = written_by("15");
        assert_eq!(choose(&paths, vec![installed(16), installed(15)]).unwrap().major, 15);
    }

    #[test]
    fn without_programs_the_package_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path()).unwrap();
        let error = choose(&paths, Vec::new()).unwrap_err().to_string();
        assert!(error.contains("apt-get install postgresql"), "{error}");
    }
}
