//! Who was heard but is not registered: counted here, written in rounds, never logged. Bounded: a flood of strangers fills a round
//! and the rest of them waits for the next one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluse_schema::id::DeviceKey;
use sluse_schema::port::{UnknownSender, UnknownSenderStore};
use sluse_schema::uplink::SourceKind;
use tracing::warn;

/// Different strangers remembered between two rounds.
const NUM_STRANGERS_MAX: usize = 1_000;
/// How often the list is written.
const ROUND: Duration = Duration::from_secs(2);

/// When a stranger was heard last (Unix milliseconds), and how often.
type Heard = (i64, u64);

/// Strangers since the last round.
#[derive(Clone, Debug, Default)]
pub struct UnknownLister {
    heard: Arc<Mutex<HashMap<(SourceKind, String), Heard>>>,
}

/// How a stranger is shown: its devEUI, or the first characters of its key's hash.
fn shown(sender: &DeviceKey) -> String {
    match sender {
        DeviceKey::DevEui(dev_eui) => dev_eui.to_string(),
        DeviceKey::ApiKey(hash) => {
            use std::fmt::Write as _;
            hash.iter().take(6).fold(String::from("key "), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
        }
    }
}

impl UnknownLister {
    /// Counts a stranger.
    pub fn heard(&self, source: SourceKind, sender: &DeviceKey, now_ms: i64) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (source, shown(sender));
        if heard.len() < NUM_STRANGERS_MAX || heard.contains_key(&key) {
            let (heard_at_ms, num) = heard.entry(key).or_insert((now_ms, 0));
            *heard_at_ms = now_ms;
            *num += 1;
        }
    }

    fn take(&self) -> Vec<UnknownSender> {
        let heard = std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner));
        let lines = heard.into_iter().map(|((source, sender), (heard_at_ms, num_heard))| UnknownSender {
            source,
            sender,
            heard_at_ms,
            num_heard,
        });
        lines.collect()
    }

    /// Writes the list in rounds, for as long as the future is polled.
    pub async fn run(self, store: Arc<dyn UnknownSenderStore>) {
        loop {
            tokio::time::sleep(ROUND).await;
            let lines = self.take();
            if !lines.is_empty()
                && let Err(error) = store.record_unknown_senders(&lines).await
            {
                warn!(num_senders = lines.len(), %error, "cannot list unknown senders");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluse_schema::id::DevEui;

    #[test]
    fn a_flood_of_strangers_stays_bounded_and_known_ones_go_on_counting() {
        let lister = UnknownLister::default();
        for i in 0..5_000 {
            lister.heard(SourceKind::Chirpstack, &DeviceKey::DevEui(DevEui(i)), 1);
        }
        lister.heard(SourceKind::Chirpstack, &DeviceKey::DevEui(DevEui(0)), 2);
        let lines = lister.take();
        assert_eq!(lines.len(), NUM_STRANGERS_MAX);
        let first = lines.iter().find(|l| l.sender == "0000000000000000").map(|l| (l.num_heard, l.heard_at_ms));
        assert_eq!(first, Some((2, 2)));
        assert!(lister.take().is_empty());
    }

    #[test]
    fn an_unknown_api_key_is_not_shown() {
        let text = shown(&DeviceKey::of_api_key("31dab038-a3a2-44c3-b7a4-fb21afc0765e"));
        assert!(text.len() == 16 && !text.contains("31dab038"), "{text}");
    }
}
