//! Where PostgreSQL's programs are on this machine, and which of several versions is the right one.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian, Red Hat, Alpine, Homebrew and source installs, in that order; `*` stands for a version.
const PLACES: [(&str, &str); 5] = [
    ("/usr/lib/postgresql", "bin"),
    ("/usr", "bin"),
    ("/usr/libexec", ""),
    ("/opt/homebrew/opt", "bin"),
    ("/usr/local/pgsql", "bin"),
];

/// The programs of one installed version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    /// Holds `postgres`, `initdb`, `pg_dump`, `pg_restore`.
    pub dir: PathBuf,
    /// 15 of 15.4.
    pub major: u32,
}

impl Binaries {
    /// The path of one program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// Every version installed here, newest first.
pub fn find_binaries() -> Vec<Binaries> {
    let mut dirs: Vec<PathBuf> = Vec::new();
    for (base, inside) in PLACES {
        let Ok(entries) = std::fs::read_dir(base) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // `/usr/lib/postgresql/15/bin`, `/usr/pgsql-15/bin`, `/usr/libexec/postgresql15`, `…/opt/postgresql@15/bin`
            let may_be = base.ends_with("postgresql") || name.starts_with("pgsql") || name.starts_with("postgresql");
            if may_be {
                dirs.push(if inside.is_empty() { entry.path() } else { entry.path().join(inside) });
            }
        }
    }
    dirs.push(PathBuf::from("/usr/local/pgsql/bin"));
    dirs.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    let mut found: Vec<Binaries> = Vec::new();
    for dir in dirs {
        if ["postgres", "initdb"].iter().all(|name| dir.join(name).is_file())
            && let Some(major) = major_of(&dir)
            && !found.iter().any(|known| known.major == major)
        {
            found.push(Binaries { dir, major });
        }
    }
    found.sort_by_key(|binaries| std::cmp::Reverse(binaries.major));
    found
}

fn major_of(dir: &Path) -> Option<u32> {
    let output = Command::new(dir.join("postgres")).arg("--version").output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// 15 of `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`; 17 of `17beta1`.
fn parse_version(text: &str) -> Option<u32> {
    let version = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_postgres_says() {
        assert_eq!(parse_version("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_version("postgres (PostgreSQL) 18beta2"), Some(18));
        assert_eq!(parse_version("nothing"), None);
    }
}
