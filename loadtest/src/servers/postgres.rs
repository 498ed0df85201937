//! PostgreSQL beside the engine, for several nodes and for faults that the engine's private one is not made for.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use tokio::process::Command;

use super::{Program, is_root};

const SUPERUSER: &str = "sluse";
/// Durable as an operator would have it, and small.
const CONF: &str = "\
max_connections = 60
shared_buffers = 64MB
unix_socket_directories = ''
";

/// Where the engine finds it: the database that `initdb` makes, without a password since it listens on loopback only.
pub fn url(port: u16) -> String {
    format!("postgres://{SUPERUSER}@127.0.0.1:{port}/postgres")
}

/// Makes the cluster below `dir` if there is none yet, and says how it is started.
pub async fn initialised(dir: &Path, port: u16) -> anyhow::Result<Program> {
    fs::create_dir_all(dir)?;
    let dir = dir.canonicalize()?;
    // PostgreSQL refuses to run as root.
    let run_as = if is_root() { Some(unprivileged()?) } else { None };
    if let Some((uid, gid)) = run_as {
        chown(&dir, Some(uid), Some(gid))?;
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
    let program = postgres(&dir, port, run_as)?;
    if !dir.join("PG_VERSION").exists() {
        let mut initdb = Command::new(program.path.with_file_name("initdb"));
        initdb.arg("-D").arg(&dir).args(["-U", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--no-locale"]);
        if let Some((uid, gid)) = run_as {
            initdb.uid(uid).gid(gid);
        }
        let made = initdb.output().await.context("cannot start initdb: is postgresql installed?")?;
        ensure!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        fs::write(dir.join("postgresql.auto.conf"), CONF)?;
    }
    Ok(program)
}

/// The postmaster of the cluster in `dir`.
fn postgres(dir: &Path, port: u16, run_as: Option<(u32, u32)>) -> anyhow::Result<Program> {
    let port_text = port.to_string();
    let place = dir.to_string_lossy().into_owned();
    let args = ["-D", &place, "-h", "127.0.0.1", "-p", &port_text];
    Ok(Program {
        name: "postgres",
        path: binary()?,
        args: args.map(str::to_owned).to_vec(),
        env: Vec::new(),
        port,
        log: dir.with_extension("log"),
        // Fast shutdown: clients are sent away.
        stop_signal: "INT",
        run_as,
    })
}

/// The newest PostgreSQL of this machine.
fn binary() -> anyhow::Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").map(|dirs| dirs.flatten().map(|d| d.path()).collect());
    let mut versions: Vec<PathBuf> = versions.unwrap_or_default();
    versions.sort();
    let packaged = versions.into_iter().rev().map(|dir| dir.join("bin/postgres")).find(|path| path.exists());
    let elsewhere = ["/usr/bin/postgres", "/usr/local/bin/postgres"].map(PathBuf::from);
    packaged.or_else(|| elsewhere.into_iter().find(|p| p.exists())).context("postgres is not there: install postgresql")
}

/// User and group of `postgres`, or of `nobody`.
fn unprivileged() -> anyhow::Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd")?;
    let ids_of = |name: &str| {
        let fields: Vec<&str> = users.lines().find(|line| line.split(':').next() == Some(name))?.split(':').collect();
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    ids_of("postgres").or_else(|| ids_of("nobody")).context("there is no user that postgres could run as")
}
