//! Mends the one thing that fjall does not: a last batch that a power cut left with a hole.
//!
//! A batch is synced before it is acknowledged, so a torn one at the journal's end was never acknowledged. fjall 3.1.13 drops it
//! when an entry's head is gone, but when only the inside of a large value is, it reports a checksum mismatch and refuses to open
//! for ever. Here such a batch is cut off, if nothing stands behind it; damage anywhere else stays an error for a person.
//!
//! A journal is `Start: 1, number of items (u32), sequence number (u64)`, items `2, type (u8), compression (u8), keyspace (u64), key
//! length (u16), value length twice (u32), key, value`, and `End: 3, xxh3 of the items (u64), "FJL\x03"`, little-endian.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const MAGIC: &[u8] = b"FJL\x03";
/// Bytes of an item behind its first, before key and value.
const ITEM_HEAD_BYTES: usize = 20;

/// Cuts a torn last batch off the newest journal in `dir`. Gives how many bytes went, or `None` when that is not the damage.
pub fn cut_torn_batch(dir: &Path) -> io::Result<Option<u64>> {
    let Some(path) = newest_journal(dir)? else { return Ok(None) };
    let mut journal = Journal { reader: BufReader::new(File::open(&path)?), at: 0 };
    loop {
        let batch_at = journal.at;
        match journal.next_batch() {
            Ok(Batch::Whole) => {}
            Ok(Batch::Torn) if journal.is_at_end()? => {
                let cut = journal.at - batch_at;
                let file = File::options().write(true).open(&path)?;
                file.set_len(batch_at)?;
                file.sync_all()?;
                return Ok(Some(cut));
            }
            // fjall handles an end inside a batch by itself; anything else is not for us.
            Ok(Batch::Torn | Batch::Other) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

fn newest_journal(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let is_journal = path.extension().is_some_and(|extension| extension == "jnl");
        let id = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok()).filter(|_| is_journal);
        if let Some(id) = id
            && newest.as_ref().is_none_or(|(newest, _)| id > *newest)
        {
            newest = Some((id, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

enum Batch {
    Whole,
    /// It ends where it should, with a checksum of something else.
    Torn,
    /// No batch of ours.
    Other,
}

struct Journal {
    reader: BufReader<File>,
    at: u64,
}

impl Journal {
    fn read<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn next_batch(&mut self) -> io::Result<Batch> {
        if self.read::<1>()? != [START] {
            return Ok(Batch::Other);
        }
        let [a, b, c, d, ..] = self.read::<12>()?;
        let mut hasher = Xxh3::new();
        for _ in 0..u32::from_le_bytes([a, b, c, d]) {
            if self.read::<1>()? != [ITEM] {
                return Ok(Batch::Other);
            }
            hasher.update(&[ITEM]);
            self.item(&mut hasher)?;
        }
        if self.read::<1>()? != [END] {
            return Ok(Batch::Other);
        }
        let checksum = u64::from_le_bytes(self.read::<8>()?);
        if self.read::<4>()? != MAGIC {
            return Ok(Batch::Other);
        }
        Ok(if hasher.digest() == checksum { Batch::Whole } else { Batch::Torn })
    }

    fn item(&mut self, hasher: &mut Xxh3) -> io::Result<()> {
        let head = self.read::<ITEM_HEAD_BYTES>()?;
        hasher.update(&head);
        let key_len = u64::from(u16::from_le_bytes([head[10], head[11]]));
        let value_len = u64::from(u32::from_le_bytes([head[16], head[17], head[18], head[19]]));
        let mut left = key_len + value_len;
        let mut piece = [0; 8 << 10];
        while left > 0 {
            let now = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.reader.read_exact(&mut piece[..now])?;
            hasher.update(&piece[..now]);
            (self.at, left) = (self.at + now as u64, left - now as u64);
        }
        Ok(())
    }

    /// Whether nothing but the zeros of preallocated room follows.
    fn is_at_end(&mut self) -> io::Result<bool> {
        let mut piece = [0; 64 << 10];
        loop {
            match self.reader.read(&mut piece)? {
                0 => return Ok(true),
                num_bytes if piece[..num_bytes].iter().any(|byte| *byte != 0) => return Ok(false),
                _ => {}
            }
        }
    }
}
