//! What the processes cost, from `/proc`: CPU seconds and resident memory of Sluse with its decoder workers, and separately of its
//! private PostgreSQL, the broker and ourselves. Linux only; zeros elsewhere.
//!
//! CPU of children that have ended is in their parent's account, so restarted workers are counted. A restarted engine begins a new
//! account: the sum over incarnations is kept here.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Kernel ticks per second; 100 on every Linux that matters.
const TICKS_PER_SECOND: f64 = 100.0;
const PAGE_BYTES: u64 = 4096;

/// What a group of processes used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub rss_bytes: u64,
}

/// Whose cost is read.
#[derive(Clone, Debug, Default)]
pub struct Pids {
    pub engines: Vec<u32>,
    pub broker: Option<u32>,
    pub kafka: Vec<u32>,
}

/// All groups at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usages {
    pub engine: Usage,
    pub database: Usage,
    pub broker: Usage,
    pub kafka: Usage,
    pub loadtest: Usage,
}

#[derive(Clone, Debug)]
struct Process {
    parent: u32,
    cpu_ticks: u64,
    rss_bytes: u64,
    is_postgres: bool,
}

/// Reads `/proc` and remembers what processes that are gone had used.
#[derive(Debug, Default)]
pub struct Meter {
    data_dir: PathBuf,
    /// Last seen ticks per process of the engine and of the database.
    engine: Account,
    database: Account,
}

#[derive(Debug, Default)]
struct Account {
    last: HashMap<u32, u64>,
    /// Ticks of processes that are gone and whose parent is gone too.
    gone: u64,
}

impl Account {
    fn update(&mut self, now: HashMap<u32, u64>, is_counted_by_parent: bool) -> f64 {
        for (pid, ticks) in &self.last {
            if !now.contains_key(pid) && !is_counted_by_parent {
                self.gone += ticks;
            }
        }
        let sum = now.values().sum::<u64>() + self.gone;
        self.last = now;
        sum as f64 / TICKS_PER_SECOND
    }
}

impl Meter {
    /// A meter for a run with its files in this directory (its PostgreSQL is recognised by it).
    pub fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_owned()), ..Self::default() }
    }

    /// Reads everything now.
    pub fn read(&mut self, pids: &Pids) -> Usages {
        let processes = self.processes();
        let (mut engine_ticks, mut database_ticks) = (HashMap::new(), HashMap::new());
        let mut usages = Usages::default();
        for (pid, process) in &processes {
            if process.is_postgres {
                database_ticks.insert(*pid, process.cpu_ticks);
                usages.database.rss_bytes += process.rss_bytes;
            } else if pids.engines.iter().any(|engine| descends_from(&processes, *pid, *engine)) {
                engine_ticks.insert(*pid, process.cpu_ticks);
                usages.engine.rss_bytes += process.rss_bytes;
            }
        }
        // While the engine lives, ended workers and backends are in their parents' accounts.
        let is_same_engine = !pids.engines.is_empty()
            && pids.engines.iter().all(|e| self.engine.last.contains_key(e) || self.engine.last.is_empty());
        usages.engine.cpu_seconds = self.engine.update(engine_ticks, is_same_engine);
        usages.database.cpu_seconds = self.database.update(database_ticks, is_same_engine);
        let one = |pid: Option<u32>| {
            let process = pid.and_then(|pid| processes.get(&pid));
            process.map_or_else(Usage::default, |p| Usage {
                cpu_seconds: p.cpu_ticks as f64 / TICKS_PER_SECOND,
                rss_bytes: p.rss_bytes,
            })
        };
        usages.broker = one(pids.broker);
        usages.kafka = pids.kafka.iter().map(|pid| one(Some(*pid))).fold(Usage::default(), |sum, broker| Usage {
            cpu_seconds: sum.cpu_seconds + broker.cpu_seconds,
            rss_bytes: sum.rss_bytes + broker.rss_bytes,
        });
        usages.loadtest = one(Some(std::process::id()));
        usages
    }

    fn processes(&self) -> HashMap<u32, Process> {
        let Ok(entries) = fs::read_dir("/proc") else { return HashMap::new() };
        let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
        let mut processes: HashMap<u32, Process> = pids.filter_map(|pid| Some((pid, read_process(pid)?))).collect();
        // The postmaster names its data directory; its backends only name themselves.
        let is_our_postmaster = |pid: &u32| {
            let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let cmdline = String::from_utf8_lossy(&cmdline).into_owned();
            cmdline.contains("postgres") && cmdline.contains(&*self.data_dir.to_string_lossy())
        };
        let candidates: Vec<u32> = processes.iter().filter(|(_, p)| p.is_postgres).map(|(pid, _)| *pid).collect();
        let postmasters: Vec<u32> = candidates.iter().copied().filter(is_our_postmaster).collect();
        for pid in candidates {
            let is_ours = postmasters.iter().any(|postmaster| descends_from(&processes, pid, *postmaster));
            if let Some(process) = processes.get_mut(&pid)
                && !is_ours
            {
                process.is_postgres = false;
            }
        }
        processes
    }
}

fn descends_from(processes: &HashMap<u32, Process>, pid: u32, ancestor: u32) -> bool {
    let mut pid = pid;
    // No chain of parents is longer than this; a cycle cannot be, but `/proc` is not read at one instant.
    for _ in 0..64 {
        if pid == ancestor {
            return true;
        }
        match processes.get(&pid) {
            Some(process) if process.parent != 0 => pid = process.parent,
            _ => return false,
        }
    }
    false
}

fn read_process(pid: u32) -> Option<Process> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads a line of `/proc/<pid>/stat` (proc(5)): the name is in parentheses and may hold anything.
fn parse_stat(line: &str) -> Option<Process> {
    let (head, rest) = line.rsplit_once(')')?;
    let name = head.split_once('(')?.1;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Counted from the third field, which is the state: 4 ppid, 14-17 utime stime cutime cstime, 24 rss in pages.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Process {
        parent: u32::try_from(field(4)?).ok()?,
        cpu_ticks: (14..=17).filter_map(field).sum(),
        rss_bytes: field(24)? * PAGE_BYTES,
        is_postgres: name.starts_with("postgres"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_name_holds() {
        let line =
            "4711 (a) b ( c) S 17 4711 4711 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 9 0 123 4096 25 18446744073709551615";
        let process = parse_stat(line).unwrap();
        assert_eq!((process.parent, process.cpu_ticks, process.rss_bytes), (17, 127, 25 * 4096));
        assert!(parse_stat("nonsense").is_none());
    }

    #[test]
    fn our_own_cost_is_found() {
        let mut sum = 0_u64;
        for i in 0..80_000_000_u64 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(i));
        }
        let usages = Meter::new(Path::new("/nonexistent")).read(&Pids::default());
        assert!(usages.loadtest.cpu_seconds > 0.0, "{sum}");
        assert!(usages.loadtest.rss_bytes > 1 << 20);
        assert_eq!(usages.engine, Usage::default());
    }

    #[test]
    fn what_a_killed_incarnation_used_is_kept() {
        let mut account = Account::default();
        account.update(HashMap::from([(1, 500)]), true);
        assert_eq!(account.update(HashMap::from([(2, 100)]), false), 6.0);
        assert_eq!(account.update(HashMap::from([(2, 150)]), true), 6.5);
    }
}
