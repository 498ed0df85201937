//! What is made up around an engine, so that a fault of the machine can be had without breaking the machine: a clock that jumps, and
//! a small disk that fills up.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::servers::is_root;

/// Room for the log's journals and a run's records.
const DISK_BYTES: u64 = 384 << 20;
/// What the engine keeps free on it, of its own accord.
pub const RESERVE_BYTES: u64 = 64 << 20;

/// The time of day of one program, by libfaketime: a file says how far it is off. Clocks that never jump are left alone.
#[derive(Debug)]
pub struct FakeClock {
    offset: PathBuf,
}

impl FakeClock {
    /// A clock that is right as yet.
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        let clock = Self { offset: dir.canonicalize()?.join("clock_offset") };
        clock.step(0)?;
        Ok(clock)
    }

    /// Sets how far it is off, seconds.
    pub fn step(&self, seconds: i64) -> anyhow::Result<()> {
        // Read by the program again and again: replaced at once, so that it never sees half of it.
        let new = self.offset.with_extension("new");
        fs::write(&new, format!("{seconds:+}s\n"))?;
        fs::rename(&new, &self.offset).with_context(|| format!("cannot write {}", self.offset.display()))
    }

    /// What the program has to be started with.
    pub fn env(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let triples = ["x86_64-linux-gnu", "aarch64-linux-gnu"];
        let candidates = triples.map(|triple| format!("/usr/lib/{triple}/faketime/libfaketimeMT.so.1"));
        let library = candidates.into_iter().find(|path| Path::new(path).exists());
        let library = library.context("libfaketime is not there: install libfaketime")?;
        let one = || "1".to_owned();
        Ok(vec![
            ("LD_PRELOAD", library),
            ("FAKETIME_TIMESTAMP_FILE", self.offset.to_string_lossy().into_owned()),
            ("FAKETIME_NO_CACHE", one()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", one()),
            ("DONT_FAKE_MONOTONIC", one()),
            ("FAKETIME_DONT_RESET", one()),
        ])
    }
}

/// A file system of its own in memory; gone when it is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    /// Mounts it at `dir`.
    pub fn mount(dir: &Path) -> anyhow::Result<Self> {
        ensure!(is_root(), "a small disk can only be mounted by root: run this scenario as root");
        fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let size = format!("size={DISK_BYTES},mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "sluse-loadtest"]).arg(&dir).status();
        ensure!(mounted.context("cannot run mount")?.success(), "cannot mount a tmpfs at {}", dir.display());
        Ok(Self { dir })
    }

    /// Writes until nothing more fits. The file is to be removed.
    pub fn fill(&self) -> anyhow::Result<PathBuf> {
        let path = self.dir.join("ballast");
        let mut ballast = File::create(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        let mut block = vec![0_u8; 1 << 20];
        // The last bytes are the ones that hurt.
        while !block.is_empty() {
            if ballast.write_all(&block).is_err() {
                block.truncate(block.len() / 2);
            }
        }
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.dir).status();
    }
}
