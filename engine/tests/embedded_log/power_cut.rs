//! What a power cut leaves of a batch that was not synced: a hole in the journal. It is made here by hand.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sluse_engine::log::{EmbeddedLog, OpenLogError};
use sluse_schema::port::log::Log;

use crate::common::*;

const LARGE: usize = 300_000;

/// The only journal of a small log.
fn journal(dir: &Path) -> PathBuf {
    let entries = std::fs::read_dir(dir.join("log/store")).unwrap().map(|e| e.unwrap().path());
    let mut journals = entries.filter(|path| path.extension().is_some_and(|extension| extension == "jnl"));
    let journal = journals.next().unwrap();
    assert_eq!(journals.next(), None);
    journal
}

/// The value with this first letter: what cannot be compressed stands in the journal as it is.
fn value(letter: &str) -> String {
    format!("{letter}{}", noise(letter.as_bytes()[0].into(), LARGE))
}

/// Makes a page of the value with this first letter read as zeros.
fn punch_a_hole(dir: &Path, letter: &str) {
    let path = journal(dir);
    let bytes = std::fs::read(&path).unwrap();
    let value = value(letter);
    let at = bytes.windows(64).position(|window| *window == value.as_bytes()[..64]).unwrap();
    File::options().write(true).open(&path).unwrap().write_all_at(&[0; 4096], at as u64 + 50_000).unwrap();
}

async fn append_large(dir: &tempfile::TempDir, letters: &[&str]) {
    let log = open(dir, 1);
    for letter in letters {
        log.append(P0, vec![record(1, 1, value(letter))]).await.unwrap();
    }
}

async fn first_letters(log: &EmbeddedLog) -> Vec<char> {
    uplinks(log).await.iter().map(|text| text.chars().next().unwrap()).collect()
}

#[tokio::test]
async fn a_torn_last_batch_is_cut_off_and_what_was_acknowledged_before_it_stays() {
    let dir = tempfile::tempdir().unwrap();
    append_large(&dir, &["a", "b", "c"]).await;
    punch_a_hole(dir.path(), "c");
    let log = open(&dir, 1);
    assert_eq!(first_letters(&log).await, ['a', 'b']);
    assert_eq!(log.identity().incarnation, 2);
    log.append(P0, vec![record(1, 1, "d")]).await.unwrap();
    drop(log);
    assert_eq!(first_letters(&open(&dir, 1)).await, ['a', 'b', 'd']);
}

#[tokio::test]
async fn damage_before_the_last_batch_is_an_error_for_a_person_and_nothing_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    append_large(&dir, &["a", "b", "c"]).await;
    punch_a_hole(dir.path(), "b");
    let before = std::fs::read(journal(dir.path())).unwrap();
    for _ in 0..2 {
        assert!(matches!(EmbeddedLog::open(config(&dir, 1)), Err(OpenLogError::Store { .. })));
    }
    assert_eq!(std::fs::read(journal(dir.path())).unwrap(), before);
}
