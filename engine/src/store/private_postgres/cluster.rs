//! The files of the private cluster: whose they are, which version wrote them, and who may still be using them.
//!
//! `<data_dir>/postgres/data` is the cluster (made as `data.new` and renamed, so that a broken start leaves no half of one),
//! `<data_dir>/postgres/run` the socket's directory. PostgreSQL refuses root: then everything belongs to the user `postgres`,
//! or `nobody` where there is none, and root still gets in.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

/// A socket's path has at most 107 bytes, and PostgreSQL adds `/.s.PGSQL.5432.lock`.
const SOCKET_DIR_BYTES_MAX: usize = 88;

/// As whom PostgreSQL runs when we are root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
    pub user: String,
    pub uid: u32,
    pub gid: u32,
}

impl RunAs {
    /// Whom to become; `None` when we are not root and stay who we are.
    ///
    /// # Errors
    /// When we are root and there is neither `postgres` nor `nobody`.
    pub fn choose() -> io::Result<Option<Self>> {
        if fs::metadata("/proc/self")?.uid() != 0 {
            return Ok(None);
        }
        let passwd = fs::read_to_string("/etc/passwd")?;
        ["postgres", "nobody"]
            .iter()
            .find_map(|user| Self::of_passwd(&passwd, user))
            .map(Some)
            .ok_or_else(|| io::Error::other("started as root, and there is neither a user postgres nor a user nobody"))
    }

    fn of_passwd(passwd: &str, user: &str) -> Option<Self> {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let is_it = fields.next() == Some(user);
            let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            is_it.then(|| Self { user: user.to_owned(), uid, gid })
        })
    }
}

/// Where everything of the private cluster is.
#[derive(Clone, Debug)]
pub struct Paths {
    pub root: PathBuf,
    pub data: PathBuf,
    pub socket_dir: PathBuf,
    /// What the server said before its own log began.
    pub startup_log: PathBuf,
}

impl Paths {
    /// The paths under this data directory, made absolute.
    pub fn new(data_dir: &Path) -> io::Result<Self> {
        let root = fs::canonicalize(data_dir)?.join("postgres");
        let mut socket_dir = root.join("run");
        if socket_dir.as_os_str().len() > SOCKET_DIR_BYTES_MAX {
            let hash = xxh3_64(root.as_os_str().as_encoded_bytes());
            socket_dir = std::env::temp_dir().join(format!("sluse-{hash:016x}"));
        }
        // Beside the cluster, not in it: there its owner could make it a link, and root would follow.
        let startup_log = root.with_file_name("postgres-startup.log");
        Ok(Self { data: root.join("data"), startup_log, socket_dir, root })
    }

    /// Makes the directories and hands them to who will run PostgreSQL.
    pub fn prepare(&self, run_as: Option<&RunAs>) -> io::Result<()> {
        let ours = fs::metadata("/proc/self")?.uid();
        let owner = run_as.map_or(ours, |user| user.uid);
        for dir in [&self.root, &self.socket_dir] {
            fs::create_dir_all(dir)?;
            let meta = fs::symlink_metadata(dir)?;
            // The socket's may be in a directory that everybody writes to: somebody else's, or a link, is not taken over.
            if !meta.is_dir() || ![ours, owner].contains(&meta.uid()) {
                return Err(io::Error::other(format!("{} is not a directory of ours: remove it", dir.display())));
            }
            if meta.uid() != owner {
                std::os::unix::fs::lchown(dir, Some(owner), run_as.map(|user| user.gid))?;
            }
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        }
        if run_as.is_some()
            && let Some(parent) = self.root.parent()
        {
            // The other user has to get through our directory; what is secret in it has its own permissions.
            let mode = fs::metadata(parent)?.permissions().mode();
            if mode & 0o001 == 0 {
                fs::set_permissions(parent, fs::Permissions::from_mode(mode | 0o011))?;
            }
        }
        Ok(())
    }

    /// The first directory on the way that another user cannot get through.
    pub fn barrier(&self, run_as: &RunAs) -> Option<PathBuf> {
        let mut on_the_way: Vec<&Path> = self.root.ancestors().skip(1).collect();
        on_the_way.reverse();
        on_the_way
            .into_iter()
            .find(|dir| {
                fs::metadata(dir).is_ok_and(|meta| {
                    let mode = meta.permissions().mode();
                    let needed = if meta.uid() == run_as.uid {
                        0o100
                    } else if meta.gid() == run_as.gid {
                        0o010
                    } else {
                        0o001
                    };
                    mode & needed == 0
                })
            })
            .map(Path::to_path_buf)
    }

    /// The major version that wrote the cluster; `None` when there is no cluster yet.
    pub fn written_by(&self) -> io::Result<Option<u32>> {
        match fs::read_to_string(self.data.join("PG_VERSION")) {
            Ok(text) => text
                .trim()
                .parse()
                .map(Some)
                .map_err(|_| io::Error::other(format!("{}/PG_VERSION says {:?}", self.data.display(), text.trim()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The postmaster that still runs on this cluster, left by a `sluse` that was killed. A pid file whose process is gone, or
    /// is something else by now (containers give the same ids again), is removed: PostgreSQL would refuse to start for it.
    pub fn leftover_postmaster(&self) -> io::Result<Option<i32>> {
        let file = self.data.join("postmaster.pid");
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let pid = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok());
        if let Some(pid) = pid.filter(|pid| self.is_postmaster(*pid)) {
            return Ok(Some(pid));
        }
        tracing::info!(file = %file.display(), "removed the pid file of a PostgreSQL that is gone");
        fs::remove_file(&file)?;
        Ok(None)
    }

    /// A postmaster's working directory is its cluster.
    fn is_postmaster(&self, pid: i32) -> bool {
        fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == self.data)
    }

    /// The end of what the server said before it gave up, for an error message.
    pub fn last_words(&self) -> String {
        let text = fs::read(&self.startup_log).unwrap_or_default();
        let tail = &text[text.len().saturating_sub(800)..];
        String::from_utf8_lossy(tail).trim().replace('\n', " | ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_found_in_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n";
        let nobody = RunAs { user: "nobody".into(), uid: 65534, gid: 65534 };
        assert_eq!(RunAs::of_passwd(passwd, "nobody"), Some(nobody));
        assert_eq!(RunAs::of_passwd(passwd, "postgres"), None);
    }

    #[test]
    fn a_deep_data_directory_gets_a_short_socket_path() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        let paths = Paths::new(&deep).unwrap();
        assert!(paths.socket_dir.as_os_str().len() <= SOCKET_DIR_BYTES_MAX, "{:?}", paths.socket_dir);
        assert_eq!(paths.socket_dir, Paths::new(&deep).unwrap().socket_dir);
    }

    #[test]
    fn the_pid_file_of_another_process_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path()).unwrap();
        fs::create_dir_all(&paths.data).unwrap();
        // Our own process: alive, and no postmaster of this cluster.
        fs::write(paths.data.join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
        assert_eq!(paths.leftover_postmaster().unwrap(), None);
        assert!(!paths.data.join("postmaster.pid").exists());
    }
}
