//! A proxy in front of PostgreSQL's socket that counts the statements which pass, and how long PostgreSQL was at them: what is counted is
//! what was sent, whoever sent it, BEGIN and COMMIT included.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use sluse_schema::secret::Secret;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::{UnixListener, UnixStream};

const SOCKET: &str = ".s.PGSQL.5432";

/// What passed.
#[derive(Debug, Default)]
pub struct Passed {
    num_statements: AtomicU64,
    /// Microseconds from the end of a request to the answer that says that the next may come.
    busy_us: AtomicU64,
}

impl Passed {
    /// Statements and microseconds until now.
    pub fn until_now(&self) -> (u64, u64) {
        (self.num_statements.load(Relaxed), self.busy_us.load(Relaxed))
    }
}

/// A proxy to the database of this address: its address, and what passes. It ends with the runtime.
pub fn start(url: &Secret) -> (Secret, Arc<Passed>, tempfile::TempDir) {
    let (place, query) = url.reveal().split_once('?').unwrap();
    let settings: Vec<(String, String)> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let host = &settings.iter().find(|(name, _)| name == "host").unwrap().1;
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
    let passed = Arc::<Passed>::default();
    let (server, counted) = (Path::new(host).join(SOCKET), Arc::clone(&passed));
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            // PostgreSQL may be gone before the test: then so is the client.
            if let Ok(server) = UnixStream::connect(&server).await {
                pass(client, server, &counted);
            }
        }
    });
    let proxy = dir.path().display().to_string();
    let settings = settings.iter().map(|(name, value)| (name, if name == "host" { &proxy } else { value }));
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(settings).finish();
    (Secret::new(format!("{place}?{}", query.replace('+', "%20"))), passed, dir)
}

fn pass(client: UnixStream, server: UnixStream, passed: &Arc<Passed>) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let asked_at = Arc::<Mutex<Option<Instant>>>::default();
    let (counted, asking) = (Arc::clone(passed), Arc::clone(&asked_at));
    // An error is one of both sides going away.
    tokio::spawn(async move {
        let _ = copy(from_client, to_server, true, |kind| {
            if matches!(kind, b'E' | b'Q') {
                counted.num_statements.fetch_add(1, Relaxed);
            }
            if matches!(kind, b'S' | b'Q') {
                asking.lock().unwrap().get_or_insert_with(Instant::now);
            }
        })
        .await;
    });
    let counted = Arc::clone(passed);
    tokio::spawn(async move {
        let _ = copy(from_server, to_client, false, |kind| {
            if kind == b'Z'
                && let Some(asked_at) = asked_at.lock().unwrap().take()
            {
                counted.busy_us.fetch_add(asked_at.elapsed().as_micros() as u64, Relaxed);
            }
        })
        .await;
    });
}

/// Copies messages: a kind, a length and a body; a client's first one has no kind.
async fn copy(
    from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    is_client: bool,
    mut note: impl FnMut(u8),
) -> std::io::Result<()> {
    let (mut from, mut to) = (BufReader::new(from), BufWriter::new(to));
    let mut is_first = is_client;
    let mut body = Vec::new();
    loop {
        if !is_first {
            let kind = from.read_u8().await?;
            note(kind);
            to.write_u8(kind).await?;
        }
        is_first = false;
        let length = from.read_u32().await?;
        to.write_u32(length).await?;
        body.resize(length.saturating_sub(4) as usize, 0);
        from.read_exact(&mut body).await?;
        to.write_all(&body).await?;
        if from.buffer().is_empty() {
            to.flush().await?;
        }
    }
}
