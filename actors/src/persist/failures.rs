//! Lists failed decodes for their owners. Lossy by design: the raw uplink is safe as an undecoded delivery, this is its explanation.
//! Failures alike (decoder, device, kind, message) within one round become one line with a count.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use sluse_schema::port::{DecodeFailure, DeviceStore};
use tokio::sync::mpsc;
use tracing::warn;

use crate::partition::metrics::DECODE_FAILURES_UNLISTED;

/// How often failures are written.
const ROUND: Duration = Duration::from_secs(1);
/// Lines of one round.
const NUM_LINES_MAX: usize = 200;

/// Writes failed decodes of one partition in rounds.
#[derive(Debug)]
pub struct FailureLister;

impl FailureLister {
    /// Starts on this arbiter; ends when every sender is gone.
    pub fn spawn(store: Arc<dyn DeviceStore>, mut failures: mpsc::Receiver<DecodeFailure>) {
        actix_rt::spawn(async move {
            let mut waiting = Vec::new();
            while failures.recv_many(&mut waiting, NUM_LINES_MAX).await > 0 {
                let lines = coalesce(std::mem::take(&mut waiting));
                if let Err(error) = store.record_decode_failures(&lines).await {
                    warn!(%error, num_lines = lines.len(), "cannot list failed decodes");
                    counter!(DECODE_FAILURES_UNLISTED).increment(lines.len() as u64);
                }
                tokio::time::sleep(ROUND).await;
            }
        });
    }
}

/// One line per (decoder, device, kind, message), with the newest sample and the number of failures.
pub fn coalesce(failures: Vec<DecodeFailure>) -> Vec<DecodeFailure> {
    let mut places: HashMap<(i64, i64, &'static str, String), usize> = HashMap::new();
    let mut lines: Vec<DecodeFailure> = Vec::new();
    for failure in failures {
        let key = (failure.decoder.0, failure.device.0, failure.kind.as_str(), failure.message.clone());
        match places.get(&key) {
            Some(place) => {
                let num_before = lines[*place].num_failures;
                lines[*place] = DecodeFailure { num_failures: num_before + failure.num_failures, ..failure };
            }
            None => {
                places.insert(key, lines.len());
                lines.push(failure);
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use sluse_schema::id::{DecoderId, DeviceId};
    use sluse_schema::port::DecodeErrorKind;

    fn failure(device: i64, failed_at_ms: i64) -> DecodeFailure {
        DecodeFailure {
            decoder: DecoderId(1),
            device: DeviceId(device),
            kind: DecodeErrorKind::Thrown,
            message: "boom".into(),
            sample: Bytes::from(failed_at_ms.to_string()),
            failed_at_ms,
            num_failures: 1,
        }
    }

    #[test]
    fn failures_alike_become_one_line_with_the_newest_sample() {
        let lines = coalesce(vec![failure(1, 10), failure(2, 11), failure(1, 12)]);
        let shown: Vec<(i64, u32, i64)> = lines.iter().map(|l| (l.device.0, l.num_failures, l.failed_at_ms)).collect();
        assert_eq!(shown, [(1, 2, 12), (2, 1, 11)]);
    }
}
