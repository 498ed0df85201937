//! Where a run keeps its files, which ports it takes, and the demo's administrator.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rand::Rng as _;

use crate::cli::Cli;
use crate::servers::{free_port, port_or_free};

const ADMIN_EMAIL: &str = "admin@sluse.local";

/// Where this run keeps its files; a temporary directory goes at the end.
#[derive(Debug)]
pub struct Files {
    pub dir: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl Files {
    /// Makes or finds the directory.
    pub fn prepare(cli: &Cli) -> anyhow::Result<Self> {
        if cli.json && cli.data_dir.is_none() {
            let temporary = tempfile::Builder::new().prefix("sluse-loadtest-").tempdir()?;
            // The private PostgreSQL runs as another user when we are root: it must be able to pass through.
            fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o755))?;
            return Ok(Self { dir: temporary.path().to_owned(), _temporary: Some(temporary) });
        }
        let dir = cli.data_dir.clone().unwrap_or_else(|| PathBuf::from("data"));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { dir: dir.canonicalize()?, _temporary: None })
    }
}

/// A run by itself takes any free port; one that people watch takes the usual one where it can.
pub fn pick_port(cli: &Cli, usual: u16) -> anyhow::Result<u16> {
    if cli.json { free_port() } else { port_or_free(usual) }
}

/// The demo's administrator; kept with the data, because the engine makes one only at its first start.
#[derive(Debug)]
pub struct Login {
    pub email: String,
    pub password: String,
}

impl Login {
    /// The login that this data directory was made with, or a new one.
    pub fn load_or_make(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join("demo-password");
        let email = ADMIN_EMAIL.to_owned();
        if let Ok(password) = fs::read_to_string(&path) {
            return Ok(Self { email, password: password.trim().to_owned() });
        }
        let password = random_text(16);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        writeln!(file, "{password}")?;
        Ok(Self { email, password })
    }
}

/// A password or a key of letters and digits that people can tell apart.
fn random_text(num_chars: usize) -> String {
    let letters = b"abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
    let mut rng = rand::rng();
    (0..num_chars).map(|_| char::from(letters[rng.random_range(0..letters.len())])).collect()
}
